"""A session without a model: what comes next is a function of the tokens that the cache's memory really holds.

Rows that are mixed up, copied wrongly or cut at the wrong place so give wrong tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from runtime.bundle import ModelShape
from runtime.engine.chunks import ChunkRule
from runtime.engine.kv_cache import KVCache

VOCAB_SIZE = 50


def chaotic(token_ids: Sequence[int]) -> int:
    """A next token that depends on every token before it and on its place."""
    state = 17
    for token_id in token_ids:
        state = (state * 31 + int(token_id) + 7) % 1_000_003
    return state % VOCAB_SIZE


class FakeSession:
    """What a scheduler asks of a DecoderSession."""

    def __init__(
        self,
        next_token: Callable[[Sequence[int]], int] = chaotic,
        *,
        vocab_size: int = VOCAB_SIZE,
        context: int = 512,
        chunk_tokens: int = 32,
        batch_invariant: bool = True,
        decodes_rows_together: bool = True,
    ) -> None:
        self.shape = ModelShape(vocab_size, 1, 1, 1, context)
        self.cache_dtype = np.float32
        self.cache_bytes_per_token = 8
        self.batch_invariant = batch_invariant
        self.decodes_rows_together = decodes_rows_together
        self.has_independent_rows = True
        self.stop_token_ids: frozenset[int] = frozenset()
        self.chunks = ChunkRule(chunk_tokens, query_block=128)
        self.passes: list[tuple[int, int]] = []  # rows and tokens of each
        self._next_token = next_token

    def new_cache(self, capacity_tokens: int = 0) -> KVCache:
        return KVCache(self.shape, capacity_tokens)

    def check_token_ids(self, token_ids: Sequence[int]) -> None:
        assert len(token_ids)

    def check_cache(self, cache: KVCache) -> None:
        assert cache.dtype is np.float32

    def check_prompt_lookup(self) -> None:
        pass

    def unbind(self, cache: KVCache) -> None:
        pass

    def forward(self, token_ids: Sequence[int], cache: KVCache, *, num_logits_to_keep: int = 1) -> np.ndarray:
        start = cache.length
        cache.reserve(start + len(token_ids))
        for number, token_id in enumerate(token_ids):
            self._write(cache.buffers, 0, start + number, token_id)
        cache.add(token_ids)
        self.passes.append((1, len(token_ids)))
        keep = num_logits_to_keep or len(token_ids)
        ends = range(cache.length - keep + 1, cache.length + 1)
        return np.stack([self._logits(cache.buffers, 0, end) for end in ends])

    def bind(self, buffers: list[np.ndarray]) -> FakeBinding:
        return FakeBinding(self, buffers)

    def _write(self, buffers: Sequence[np.ndarray], row: int, place: int, token_id: int) -> None:
        for buffer in buffers:
            buffer[row, 0, place, 0] = token_id

    def _logits(self, buffers: Sequence[np.ndarray], row: int, length: int) -> np.ndarray:
        keys, values = (buffer[row, 0, :length, 0].astype(int).tolist() for buffer in buffers)
        assert keys == values
        logits = np.zeros(self.shape.vocab_size, np.float32)
        logits[self._next_token(keys)] = 30
        return logits


class FakeBinding:
    """A pass over rows side by side."""

    def __init__(self, session: FakeSession, buffers: list[np.ndarray]) -> None:
        self._session, self._buffers = session, buffers

    def step(self, token_ids: Sequence[int], lengths: Sequence[int]) -> np.ndarray:
        rows = range(len(token_ids))
        for row in rows:
            self._session._write(self._buffers, row, lengths[row], token_ids[row])
        self._session.passes.append((len(token_ids), 1))
        # A row that takes no step reads what was never written behind it.
        return np.stack([self._session._logits(self._buffers, row, lengths[row] + 1) for row in rows])
