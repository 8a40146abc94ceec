"""How well a model predicts a text, and how far two models' predictions lie apart.

Logits in, numbers out. Knows neither torch nor where the logits come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# Rows of logits turned into float64 at a time: 49,152 of them make 0.4 MB each.
ROWS_AT_ONCE = 64


def windows(token_ids: Sequence[int], size: int) -> Iterator[list[int]]:
    """Cut a text into windows that overlap by one token, so that each token but the first is predicted exactly once."""
    for start in range(0, len(token_ids) - 1, size - 1):
        yield list(token_ids[start : start + size])


@dataclass
class Prediction:
    """Negative log-likelihood, summed over positions (nats)."""

    nats: float = 0.0
    tokens: int = 0

    def add(self, logits: np.ndarray, targets: np.ndarray) -> None:
        """Count positions.

        Args:
            logits: float32 [positions, vocab_size].
            targets: int [positions], the token that came next.
        """
        for rows in _row_slices(len(targets)):
            log_probabilities = log_softmax(logits[rows])
            self.nats -= float(np.take_along_axis(log_probabilities, targets[rows, None], axis=1).sum())
        self.tokens += len(targets)

    @property
    def mean_nats(self) -> float:
        """Nats a token."""
        return self.nats / max(1, self.tokens)

    @property
    def perplexity(self) -> float:
        """exp of the mean."""
        return float(np.exp(self.mean_nats))


@dataclass
class Divergence:
    """How far a candidate's logits lie from a reference's, over positions."""

    kl_sum: float = 0.0
    agreeing: int = 0
    absolute_sum: float = 0.0
    max_absolute: float = 0.0
    largest_logit: float = 0.0
    positions: int = 0
    vocab_size: int = 0

    def add(self, reference: np.ndarray, candidate: np.ndarray) -> None:
        """Count positions: two float32 arrays [positions, vocab_size]."""
        for rows in _row_slices(len(reference)):
            expected, found = log_softmax(reference[rows]), log_softmax(candidate[rows])
            self.kl_sum += float((np.exp(expected) * (expected - found)).sum())
            difference = np.abs(candidate[rows] - reference[rows])
            self.absolute_sum += float(difference.sum(dtype=np.float64))
            self.max_absolute = max(self.max_absolute, float(difference.max()))
        self.agreeing += int((reference.argmax(-1) == candidate.argmax(-1)).sum())
        self.largest_logit = max(self.largest_logit, float(np.abs(reference).max()))
        self.positions += len(reference)
        self.vocab_size = reference.shape[-1]

    @property
    def kl(self) -> float:
        """Mean KL(reference || candidate), in nats; rounding may leave a hair below zero, which is cut."""
        return max(0.0, self.kl_sum / max(1, self.positions))

    @property
    def top1_agreement(self) -> float:
        """Share of positions at which both have the same likeliest token."""
        return self.agreeing / max(1, self.positions)

    @property
    def mean_absolute(self) -> float:
        """Mean absolute difference of a logit."""
        return self.absolute_sum / max(1, self.positions * self.vocab_size)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float64 log-probabilities over the last axis."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def _row_slices(rows: int) -> Iterator[slice]:
    return (slice(start, start + ROWS_AT_ONCE) for start in range(0, rows, ROWS_AT_ONCE))
