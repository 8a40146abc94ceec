"""How fast a session is: prefill and decode, at a depth, over repeats, as llama-bench measures; and against what floor.

It runs random token ids, which cost what any others do.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from runtime.engine.session import DecoderSession
from runtime.errors import OptionError
from runtime.sampling.sampler import greedy


@dataclass(frozen=True)
class BenchRow:
    """One measured configuration; speeds are means over the repeats, with their standard deviations.

    Attributes:
        depth: tokens in the cache before the prompt.
        prompt_tokens: run in one prefill.
        new_tokens: decoded one by one after it.
        python_share: of the decoding time, what was spent outside onnxruntime.
        decode_bytes_per_token: weights and cache that a step reads, at the middle of the new tokens.
        bandwidth_bytes_per_second: what the machine reads, measured beside it; None if it was not.
        bandwidth_share: decode_bytes_per_token * decode speed / bandwidth: 1 is the floor that no step can beat.
    """

    precision: str
    threads: int
    prompt_tokens: int
    new_tokens: int
    depth: int
    repeats: int
    prefill_tokens_per_second: float
    prefill_tokens_per_second_std: float
    decode_tokens_per_second: float
    decode_tokens_per_second_std: float
    python_share: float
    decode_bytes_per_token: int
    bandwidth_bytes_per_second: float | None = None
    bandwidth_share: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Round:
    prefill_seconds: float
    decode_seconds: float
    graph_seconds: float  # of the decoding


def bench(
    session: DecoderSession,
    *,
    prompt_tokens: int = 512,
    new_tokens: int = 64,
    depth: int = 0,
    repeats: int = 5,
    weight_bytes: int = 0,
    bandwidth: float | None = None,
) -> BenchRow:
    """Time a session as it is after some seconds.

    It is given its huge pages before, and a first round, which touches memory and settles the threads, is not counted.

    Args:
        session: what to time.
        prompt_tokens: run in one prefill.
        new_tokens: decoded one by one.
        depth: tokens in the cache before.
        repeats: rounds.
        weight_bytes: of the precision, all of which a step reads.
        bandwidth: of the machine with the session's threads, in bytes per second.

    Raises:
        OptionError: nothing to measure, or more tokens than the context holds.
    """
    check_bench(
        session.shape.max_position_embeddings,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        depth=depth,
        repeats=repeats,
    )
    session.take_huge_pages()
    total = depth + prompt_tokens + new_tokens
    token_ids = np.random.default_rng(0).integers(0, session.shape.vocab_size, total).tolist()
    rounds = [_round(session, token_ids, depth, prompt_tokens) for _ in range(repeats + 1)][1:]
    prefill = [prompt_tokens / each.prefill_seconds for each in rounds]
    decode = [new_tokens / each.decode_seconds for each in rounds]
    decode_seconds = sum(each.decode_seconds for each in rounds)
    read = weight_bytes + int((depth + prompt_tokens + new_tokens / 2) * session.cache_bytes_per_token)
    return BenchRow(
        precision=session.precision,
        threads=session.threads,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        depth=depth,
        repeats=repeats,
        prefill_tokens_per_second=statistics.mean(prefill),
        prefill_tokens_per_second_std=statistics.pstdev(prefill),
        decode_tokens_per_second=statistics.mean(decode),
        decode_tokens_per_second_std=statistics.pstdev(decode),
        python_share=1 - sum(each.graph_seconds for each in rounds) / decode_seconds,
        decode_bytes_per_token=read,
        bandwidth_bytes_per_second=bandwidth,
        bandwidth_share=None if bandwidth is None else read * statistics.mean(decode) / bandwidth,
    )


def check_bench(context: int, *, prompt_tokens: int, new_tokens: int, depth: int, repeats: int) -> None:
    """Raise OptionError for nothing to measure, or more tokens than the context."""
    for name, value, least in (
        ("prompt_tokens", prompt_tokens, 1),
        ("new_tokens", new_tokens, 1),
        ("depth", depth, 0),
        ("repeats", repeats, 1),
    ):
        if value < least:
            raise OptionError(f"{name} must be at least {least}, not {value}")
    total = depth + prompt_tokens + new_tokens
    if total > context:
        raise OptionError(f"depth, prompt and new tokens make {total}, the model's context is {context}")


def _round(session: DecoderSession, token_ids: list[int], depth: int, prompt_tokens: int) -> _Round:
    cache = session.new_cache(len(token_ids))
    if depth:
        session.forward(token_ids[:depth], cache)
    started = time.perf_counter()
    session.forward(token_ids[depth : depth + prompt_tokens], cache)
    prefilled, graph_seconds = time.perf_counter(), session.graph_seconds
    for token_id in token_ids[depth + prompt_tokens :]:
        greedy(session.forward([token_id], cache)[0])  # the choice belongs to a step as a user sees it
    decode_seconds = time.perf_counter() - prefilled
    return _Round(prefilled - started, decode_seconds, session.graph_seconds - graph_seconds)
