"""The keys and values of the tokens seen so far, as buffers that the graph writes in place.

Each layer's past input and present output are bound to the same memory, so a step writes its new rows and copies
nothing. Knows no sampling and no text.
"""

from __future__ import annotations

import numpy as np

from runtime.bundle import ModelShape
from runtime.errors import PromptError

# Buffers grow by whole steps of this many tokens, so that a chat does not reallocate at every turn.
GRANULARITY_TOKENS = 64


class KVCache:
    """One sequence's cache.

    `buffers` are float32 [1, num_key_value_heads, capacity, head_dim]: key and value of layer 0, of layer 1, ...
    `length` counts the tokens held; lowering it (`trim`) forgets the last ones at no cost.
    """

    def __init__(self, shape: ModelShape, capacity_tokens: int) -> None:
        self._shape = shape
        self.length = 0
        self.buffers: list[np.ndarray] = []
        self._allocate(capacity_tokens)

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
        held = [buffer[:, :, : self.length] for buffer in self.buffers]
        self._allocate(max(length, min(2 * self.capacity_tokens, self._shape.max_position_embeddings)))
        for buffer, old in zip(self.buffers, held, strict=True):
            buffer[:, :, : self.length] = old
        return True

    def trim(self, length: int) -> None:
        """Forget all tokens after the first `length`."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot trim a cache of {self.length} tokens to {length}")
        self.length = length

    def _allocate(self, capacity_tokens: int) -> None:
        steps = -(-max(capacity_tokens, 1) // GRANULARITY_TOKENS)
        capacity = min(steps * GRANULARITY_TOKENS, self._shape.max_position_embeddings)
        shape = (1, self._shape.num_key_value_heads, capacity, self._shape.head_dim)
        # zeros, not empty: pages are given on first touch either way, and a stray NaN must never be read.
        self.buffers = [np.zeros(shape, np.float32) for _ in range(2 * self._shape.num_hidden_layers)]
