"""Caches side by side in one block of memory, so that one pass takes a step for many sequences.

Reading the weights once for many rows is what makes a crowd fast, and the graph wants the rows of a pass next to each
other. So a sequence that decodes in company moves into a row of the block: a few megabytes a step, while it goes on in
its own memory, so that a long one stalls nobody. Rows are kept at the front: the last one moves into a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from runtime.engine.binding import CacheBinding
from runtime.engine.kv_cache import KVCache, copy_tokens
from runtime.engine.memory import lazy_zeros, release_pages
from runtime.engine.session import DecoderSession


@dataclass(eq=False)
class _Move:
    """A cache on its way into a row, or out of one into memory of its own, and who is told when it is out."""

    cache: KVCache
    target: list[np.ndarray]
    row: int | None = None
    when_out: Callable[[], object] | None = None
    done_tokens: int = 0


class RowBlock:
    """Rows for the caches that one session decodes together.

    Args:
        session: runs the passes; `decodes_rows_together` must hold.
        rows: places.

    Memory is taken page by page as rows are filled, and given back when they are left.
    """

    def __init__(self, session: DecoderSession, rows: int) -> None:
        shape = session.shape
        self._session = session
        self._context = shape.max_position_embeddings
        size = (rows, shape.num_key_value_heads, self._context, shape.head_dim)
        block = [lazy_zeros(size, session.cache_dtype) for _ in range(2 * shape.num_hidden_layers)]
        self._buffers = [array for array, _ in block]
        self._pages = [pages for _, pages in block]
        self._caches: list[KVCache | None] = [None] * rows
        self._moves: list[_Move] = []
        self._bindings: dict[int, CacheBinding] = {}  # by the number of rows, from the first on

    def __contains__(self, cache: KVCache) -> bool:
        """Whether a cache has moved in."""
        return any(cache is held for held in self._caches)

    def invite(self, cache: KVCache) -> bool:
        """Let a cache move in, as `move` goes on. Returns whether there is, or was, a row for it."""
        if cache in self or any(move.cache is cache for move in self._moves):
            return True
        row = self._free_row()
        if row is None:
            return False
        self._moves.append(_Move(cache, self._row(row), row))
        return True

    def take_out(self, cache: KVCache, length: int, when_out: Callable[[], object]) -> None:
        """Let a cache that takes no more steps go with its first `length` tokens, as `move` goes on.

        Args:
            cache: may also be on its way in, or outside.
            length: tokens to keep; 0 frees the row at once.
            when_out: called when the cache is in memory of its own.
        """
        self._moves = [move for move in self._moves if move.cache is not cache]
        cache.trim(min(length, cache.length))
        if cache in self and cache.length:
            own = KVCache(self._session.shape, cache.length, cache.dtype)
            self._moves.append(_Move(cache, own.buffers, when_out=when_out))
            return
        self._leave(cache)
        when_out()

    def move(self, budget_bytes: int | None = None) -> None:
        """Go on moving caches in, out and into gaps, by about this many bytes; None for all at once."""
        tokens = None if budget_bytes is None else max(1, budget_bytes // self._session.cache_bytes_per_token)
        while (tokens is None or tokens > 0) and (self._moves or self._close_gap()):
            move = self._moves[0]
            left = move.cache.length - move.done_tokens
            part = left if tokens is None else min(left, tokens)
            copy_tokens(move.cache.buffers, move.target, move.done_tokens, move.done_tokens + part)
            move.done_tokens += part
            tokens = None if tokens is None else tokens - max(part, 1)
            if move.done_tokens == move.cache.length:
                self._moves.pop(0)
                self._settle(move)

    def step(self, token_ids: Mapping[KVCache, int]) -> list[np.ndarray]:
        """One more token in some of the caches that have moved in.

        Args:
            token_ids: of each cache that takes a step, the token to run.

        Returns:
            The logits of each, float32 [vocab_size], in the order given; the caller's to keep.

        Raises:
            BundleError: the graph fails; the caches are as they were.
        """
        rows = 1 + max(row for row, cache in enumerate(self._caches) if cache in token_ids)
        binding = self._bindings.get(rows)
        if binding is None:
            binding = self._bindings[rows] = self._session.bind([buffer[:rows] for buffer in self._buffers])
        # A row that takes no step runs a token all the same; what it writes lies behind what the row holds.
        ids = [0 if cache is None else token_ids.get(cache, 0) for cache in self._caches[:rows]]
        logits = binding.step(ids, [self._held(row) for row in range(rows)]).copy()
        places = {id(cache): row for row, cache in enumerate(self._caches)}
        for cache, token_id in token_ids.items():
            cache.add((token_id,))
        return [logits[places[id(cache)]] for cache in token_ids]

    def _settle(self, move: _Move) -> None:
        """All that a cache holds is in its new place: it lives there from now on."""
        self._leave(move.cache)
        self._session.unbind(move.cache)
        move.cache.buffers = move.target
        if move.row is not None:
            self._caches[move.row] = move.cache
        if move.when_out is not None:
            move.when_out()

    def _leave(self, cache: KVCache) -> None:
        """Free the row of a cache, if it has one."""
        for row, held in enumerate(self._caches):
            if held is cache:
                self._caches[row] = None
                for buffer, pages in zip(self._buffers, self._pages, strict=True):
                    row_bytes = buffer.nbytes // len(buffer)
                    release_pages(pages, row * row_bytes, (row + 1) * row_bytes)

    def _close_gap(self) -> bool:
        """Begin to move the last row into the first gap before it. Returns whether there is one."""
        last = max((row for row, cache in enumerate(self._caches) if cache is not None), default=0)
        gap, cache = self._free_row(), self._caches[last]
        if cache is None or gap is None or gap > last:
            return False
        self._moves.append(_Move(cache, self._row(gap), gap))
        return True

    def _free_row(self) -> int | None:
        waiting = {move.row for move in self._moves}
        free = (row for row, cache in enumerate(self._caches) if cache is None and row not in waiting)
        return next(free, None)

    def _row(self, row: int) -> list[np.ndarray]:
        return [buffer[row : row + 1] for buffer in self._buffers]

    def _held(self, row: int) -> int:
        """Tokens that a row holds and must keep."""
        cache = self._caches[row]
        if cache is not None:
            return min(cache.length, self._context - 1)
        return next((move.done_tokens for move in self._moves if move.row == row), 0)
