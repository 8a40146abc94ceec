"""The keys and values of the tokens seen so far, as buffers that the graph writes in place.

Each layer's past input and present output are bound to the same memory, so a step writes its new rows and copies
nothing. A cache belongs to a model's shape and not to a session: any precision of the bundle that has a cache of this
dtype may go on with it. Knows no sampling and no text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from runtime.bundle import ModelShape
from runtime.contract import CacheDtype
from runtime.errors import PromptError

# Buffers grow by whole steps of this many tokens, so that a chat does not reallocate at every turn.
GRANULARITY_TOKENS = 64


class KVCache:
    """One sequence's cache, and the ids of the tokens in it.

    Args:
        shape: of the model.
        capacity_tokens: room for so many, which grows when more come.
        dtype: float32, or int8 in units that the graph knows.

    Attributes:
        buffers: [1, num_key_value_heads, capacity, head_dim]: key and value of layer 0, of layer 1, ... Another
            list when the cache has grown.
        token_ids: what the cache holds, in order. Changed by the methods alone.
    """

    def __init__(self, shape: ModelShape, capacity_tokens: int = 0, dtype: CacheDtype = np.float32) -> None:
        self._shape = shape
        self.dtype = dtype
        self.token_ids: list[int] = []
        self.buffers = _allocate(shape, 1, capacity_tokens, dtype)

    @classmethod
    def rows(
        cls, shape: ModelShape, count: int, capacity_tokens: int, dtype: CacheDtype = np.float32
    ) -> tuple[list[KVCache], list[np.ndarray]]:
        """Caches over one block of memory, and the block's buffers [count, num_key_value_heads, capacity, head_dim]."""
        block = _allocate(shape, count, capacity_tokens, dtype)
        caches = [cls(shape, dtype=dtype) for _ in range(count)]
        for row, cache in enumerate(caches):
            cache.buffers = [buffer[row : row + 1] for buffer in block]
        return caches, block

    @property
    def length(self) -> int:
        """Tokens held."""
        return len(self.token_ids)

    @property
    def capacity_tokens(self) -> int:
        """Tokens that fit before the buffers must grow."""
        return int(self.buffers[0].shape[2])

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.nbytes for buffer in self.buffers)

    def reserve(self, length: int) -> bool:
        """Make room for `length` tokens in all. Returns whether the buffers moved.

        Raises:
            PromptError: more than the model's context.
        """
        if length > self._shape.max_position_embeddings:
            raise PromptError(f"{length} tokens do not fit the context of {self._shape.max_position_embeddings}")
        if length <= self.capacity_tokens:
            return False
        held = self.buffers
        wanted = max(length, min(2 * self.capacity_tokens, self._shape.max_position_embeddings))
        self.buffers = _allocate(self._shape, 1, wanted, self.dtype)
        self._copy_rows(held, self.length)
        return True

    def add(self, token_ids: Iterable[int]) -> None:
        """Count tokens as held whose rows a graph has written."""
        self.token_ids.extend(token_ids)

    def trim(self, length: int) -> None:
        """Forget all tokens after the first `length`, at no cost."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot trim a cache of {self.length} tokens to {length}")
        del self.token_ids[length:]

    def common_prefix(self, token_ids: Sequence[int]) -> int:
        """How many of the ids, from the first on, are those that the cache begins with."""
        shorter = min(self.length, len(token_ids))
        pairs = zip(self.token_ids, token_ids, strict=False)
        return next((place for place, (held, wanted) in enumerate(pairs) if held != wanted), shorter)

    def copy(self, length: int, capacity_tokens: int = 0) -> KVCache:
        """A cache of its own that holds the first `length` tokens of this one, with room for `capacity_tokens`."""
        other = KVCache(self._shape, max(length, capacity_tokens), self.dtype)
        other.replace(self, length)
        return other

    def replace(self, other: KVCache, length: int) -> None:
        """Hold the first `length` tokens of another cache, which must fit, instead of what is held now."""
        self._copy_rows(other.buffers, length)
        self.token_ids = other.token_ids[:length]

    def _copy_rows(self, buffers: Sequence[np.ndarray], length: int) -> None:
        for mine, other in zip(self.buffers, buffers, strict=True):
            mine[:, :, :length] = other[:, :, :length]


def _allocate(shape: ModelShape, rows: int, capacity_tokens: int, dtype: CacheDtype) -> list[np.ndarray]:
    steps = -(-max(capacity_tokens, 1) // GRANULARITY_TOKENS)
    capacity = min(steps * GRANULARITY_TOKENS, shape.max_position_embeddings)
    size = (rows, shape.num_key_value_heads, capacity, shape.head_dim)
    # zeros, not empty: pages are given on first touch either way, and a stray NaN must never be read.
    return [np.zeros(size, dtype) for _ in range(2 * shape.num_hidden_layers)]
