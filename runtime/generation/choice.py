"""From logits to the next token: the processors in order, then the sampler, with the ids so far."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.sampling.logits_processors import LogitsProcessor
from runtime.sampling.sampler import Sampler


class Choice:
    """One sequence's choices; each adds to the ids that the next one's processors see.

    Args:
        sampler: from logits float32 [vocab_size] to an id.
        logits_processors: run before it.
        token_ids: the ids so far; the list is this object's from now on.
    """

    def __init__(self, sampler: Sampler, logits_processors: Sequence[LogitsProcessor], token_ids: list[int]) -> None:
        self._sampler = sampler
        self._processors = tuple(logits_processors)
        self.token_ids = token_ids

    def __call__(self, logits: np.ndarray) -> int:
        """The next token id, from logits float32 [vocab_size]."""
        for process in self._processors:
            logits = process(self.token_ids, logits)
        token_id = self._sampler(logits)
        self.token_ids.append(token_id)
        return token_id
