"""Logits processors: plain callables that change the scores of the next token before one is drawn.

A processor takes the ids so far (prompt and output) and the logits, and returns logits. Users may add their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from runtime.errors import OptionError

# (token_ids so far, logits float32 [vocab_size]) -> logits float32 [vocab_size]
LogitsProcessor = Callable[[Sequence[int], np.ndarray], np.ndarray]


def repetition_penalty(penalty: float) -> LogitsProcessor:
    """Divide positive and multiply negative logits of tokens that have occurred (Keskar et al., arXiv:1909.05858).

    Args:
        penalty: above 1 discourages repetition, 1 changes nothing.
    """
    if not 0 < penalty < float("inf"):
        raise OptionError(f"repetition_penalty must be above 0 and finite, not {penalty}")

    def process(token_ids: Sequence[int], logits: np.ndarray) -> np.ndarray:
        seen = np.unique(np.asarray(token_ids, np.int64))
        scores = logits[seen].astype(np.float64)
        processed = logits.copy()
        with np.errstate(over="ignore"):  # a penalty beyond float32 forbids the token
            processed[seen] = np.where(scores < 0, scores * penalty, scores / penalty)
        return processed

    return process
