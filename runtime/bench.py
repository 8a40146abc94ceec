"""How fast a session is: prefill and decode, at a depth, over repeats. As llama-bench measures.

Knows no text: it runs random token ids, whose cost is that of any others.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from runtime.errors import OptionError
from runtime.session import DecoderSession


@dataclass(frozen=True)
class BenchRow:
    """One measured configuration; speeds are means over the repeats, with their standard deviations.

    Attributes:
        depth: tokens in the cache before the prompt.
        prompt_tokens: run in one prefill.
        new_tokens: decoded one by one after it.
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

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def bench(
    session: DecoderSession, *, prompt_tokens: int = 512, new_tokens: int = 64, depth: int = 0, repeats: int = 5
) -> BenchRow:
    """Time a session. A first round, which touches memory and settles the threads, is not counted.

    Raises:
        OptionError: nothing to measure, or more tokens than the context holds.
    """
    for name, value, least in (
        ("prompt_tokens", prompt_tokens, 1),
        ("new_tokens", new_tokens, 1),
        ("depth", depth, 0),
        ("repeats", repeats, 1),
    ):
        if value < least:
            raise OptionError(f"{name} must be at least {least}, not {value}")
    total, context = depth + prompt_tokens + new_tokens, session.shape.max_position_embeddings
    if total > context:
        raise OptionError(f"depth, prompt and new tokens make {total}, the model's context is {context}")
    token_ids = np.random.default_rng(0).integers(0, session.shape.vocab_size, total)
    rounds = [_round(session, token_ids, depth, prompt_tokens) for _ in range(repeats + 1)][1:]
    prefill = [prompt_tokens / prefill_seconds for prefill_seconds, _ in rounds]
    decode = [new_tokens / decode_seconds for _, decode_seconds in rounds]
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
    )


def _round(session: DecoderSession, token_ids: np.ndarray, depth: int, prompt_tokens: int) -> tuple[float, float]:
    """Seconds of the prefill and of the decodes after it."""
    cache = session.new_cache(len(token_ids))
    if depth:
        session.forward(token_ids[:depth], cache)
    started = time.perf_counter()
    session.forward(token_ids[depth : depth + prompt_tokens], cache)
    prefilled = time.perf_counter()
    for token_id in token_ids[depth + prompt_tokens :]:
        # The argmax belongs to a step as a user sees it.
        session.forward([token_id], cache)[0].argmax()
    return prefilled - started, time.perf_counter() - prefilled
