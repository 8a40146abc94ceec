"""The keys and values of the tokens seen so far, as buffers that the graph writes in place.

Each layer's past input and present output are bound to the same memory, so a step writes its new rows and copies
nothing. A cache belongs to a model's shape and not to a session: any precision of the bundle that has a cache of this
dtype may go on with it.
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
        capacity_tokens: room for this many, which grows when more come.
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
        self.buffers = _allocate(shape, capacity_tokens, dtype)

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
        self.buffers = _allocate(self._shape, wanted, self.dtype)
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
        """The number of leading ids that the cache begins with."""
        held, low, high = self.token_ids, 0, min(self.length, len(token_ids))
        while low < high:  # by halves: comparing slices of lists costs a nanosecond an id, a loop fifty
            middle = (low + high + 1) // 2
            if held[low:middle] == list(token_ids[low:middle]):
                low = middle
            else:
                high = middle - 1
        return low

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
        copy_tokens(buffers, self.buffers, 0, length)


def rounded_capacity(shape: ModelShape, tokens: int) -> int:
    """The capacity of a cache that is made for `tokens`."""
    steps = -(-max(tokens, 1) // GRANULARITY_TOKENS)
    return min(steps * GRANULARITY_TOKENS, shape.max_position_embeddings)


def copy_tokens(source: Sequence[np.ndarray], target: Sequence[np.ndarray], start: int, end: int) -> None:
    """Copy the keys and values of tokens start..end between buffers [1, num_key_value_heads, capacity, head_dim]."""
    for theirs, ours in zip(source, target, strict=True):
        ours[:, :, start:end] = theirs[:, :, start:end]


def _allocate(shape: ModelShape, capacity_tokens: int, dtype: CacheDtype) -> list[np.ndarray]:
    capacity = rounded_capacity(shape, capacity_tokens)
    size = (1, shape.num_key_value_heads, capacity, shape.head_dim)
    # zeros, not empty: pages are given on first touch either way, and a stray NaN must never be read.
    return [np.zeros(size, dtype) for _ in range(2 * shape.num_hidden_layers)]
