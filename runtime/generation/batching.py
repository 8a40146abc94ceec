"""Several sequences at once: each is prefilled by itself, then all take their steps in one pass.

Reading the weights once for many rows is what makes a batch fast. Prompts and outputs may be of any lengths: the rows
of the cache are ragged, a row that ends makes room for the next request, and a row's own seed decides what it says.

Knows no text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from runtime.engine.kv_cache import KVCache
from runtime.engine.session import DecoderSession
from runtime.errors import OptionError
from runtime.generation.choice import Choice
from runtime.generation.generate import new_token_limit
from runtime.sampling.logits_processors import LogitsProcessor
from runtime.sampling.sampler import Sampler, greedy

DEFAULT_BATCH_SIZE = 8


@dataclass(frozen=True)
class Request:
    """One sequence to generate; the options are those of `generate_step`.

    Attributes:
        stop_token_ids: end before any of these.
        is_last: told every other token that came; its yes ends the row, with that token.
    """

    prompt_ids: Sequence[int]
    max_new_tokens: int | None = None
    sampler: Sampler = greedy
    logits_processors: Sequence[LogitsProcessor] = ()
    stop_token_ids: Collection[int] = ()
    is_last: Callable[[int], bool] = lambda _: False


@dataclass(eq=False)
class Row:
    """A request under way.

    Attributes:
        index: which request of those given.
        token_ids: the new tokens so far.
        finish_reason: "stop" or "length"; None while it runs.
    """

    index: int
    request: Request
    limit: int
    cache: KVCache
    choose: Choice
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None

    def take(self, logits: np.ndarray) -> None:
        """Choose the next token, and see whether it is the last."""
        token_id = self.choose(logits)
        if token_id in self.request.stop_token_ids:
            self.finish_reason = "stop"
            return
        self.token_ids.append(token_id)
        if self.request.is_last(token_id):
            self.finish_reason = "stop"
        elif len(self.token_ids) == self.limit:
            self.finish_reason = "length"


def generate_batch(
    session: DecoderSession, requests: Sequence[Request], *, batch_size: int = DEFAULT_BATCH_SIZE
) -> Iterator[Row]:
    """Run requests, at most `batch_size` at a time; yield each row when it has ended, in the order of ending.

    A row's logits are those that it would have by itself, to the bit for int8 and to rounding for fp32 and q4 (with a
    cache of int8 that rounding may turn a step of it). q8 scales activations over all rows of a pass, so there they
    depend on the company (docs/decisions/0013). In a steady session all agree to the bit, since there each row takes
    its steps alone, at the price of the gain.

    Raises:
        PromptError, OptionError: at the call, before anything is computed, for any of the requests.
    """
    if batch_size < 1:
        raise OptionError(f"batch_size must be at least 1, not {batch_size}")
    limits = [check_request(session, request) for request in requests]
    capacity = max((len(r.prompt_ids) + limit for r, limit in zip(requests, limits, strict=True)), default=1)
    return _run(session, requests, limits, _Rows(session, min(batch_size, len(requests) or 1), capacity))


def check_request(session: DecoderSession, request: Request) -> int:
    """How many tokens a request may get. Raises as `generate_batch` does."""
    session.check_token_ids(request.prompt_ids)
    return new_token_limit(session.shape, len(request.prompt_ids), request.max_new_tokens)


def _run(session: DecoderSession, requests: Sequence[Request], limits: Sequence[int], rows: _Rows) -> Iterator[Row]:
    waiting = deque(enumerate(zip(requests, limits, strict=True)))
    while waiting or rows.running:
        for index, (request, limit) in list(islice(waiting, rows.size - len(rows.running))):
            waiting.popleft()
            row = Row(
                index,
                request,
                limit,
                rows.next_cache(),
                Choice(request.sampler, request.logits_processors, list(request.prompt_ids)),
            )
            row.take(session.forward(request.prompt_ids, row.cache)[0])
            rows.running.append(row)
        ended = [row for row in rows.running if row.finish_reason]
        for row in ended:
            rows.remove(row)
            yield row
        if rows.running and not ended:
            for row, logits in zip(rows.running, rows.step(), strict=True):
                row.take(logits)


class _Rows:
    """The running rows, which are the first of one block of memory, so that a pass reads no others."""

    def __init__(self, session: DecoderSession, size: int, capacity_tokens: int) -> None:
        self.size = size
        self.running: list[Row] = []
        self._session = session
        self._caches, block = KVCache.rows(session.shape, size, capacity_tokens, session.cache_dtype)
        counts = range(2, size + 1) if session.in_place and not session.steady else ()
        self._bindings = {count: session.bind([buffer[:count] for buffer in block]) for count in counts}

    def next_cache(self) -> KVCache:
        """The first free row's, empty."""
        cache = self._caches[len(self.running)]
        cache.trim(0)
        return cache

    def remove(self, row: Row) -> None:
        """Free a row: the last one moves into its place."""
        last = self.running.pop()
        if last is row:
            return
        self.running[self.running.index(row)] = last
        row.cache.replace(last.cache, last.cache.length)
        last.cache, row.cache = row.cache, last.cache

    def step(self) -> np.ndarray:
        """The logits after every row's last token, float32 [rows, vocab_size]."""
        last = [row.token_ids[-1] for row in self.running]
        caches = [row.cache for row in self.running]
        binding = self._bindings.get(len(last))
        if binding is None:  # one row, a steady session, or a graph that cannot write in place
            return np.concatenate(
                [self._session.forward([token_id], cache) for token_id, cache in zip(last, caches, strict=True)]
            )
        logits = binding.step(last, [cache.length for cache in caches])
        for token_id, cache in zip(last, caches, strict=True):
            cache.add([token_id])
        return logits
