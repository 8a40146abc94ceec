"""How well a model predicts a text, and how far two models' predictions lie apart.

Logits in, numbers out. Knows neither torch nor where the logits come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import NormalDist

import numpy as np

# Rows of logits turned into float64 at a time: 49,152 of them make 0.4 MB each.
ROWS_AT_ONCE = 64
TOP = 5
# Parts of a text for a confidence interval: more would be too short to be independent, fewer tell too little of the
# spread (Schmeiser, Operations Research 30, 1982: 10 to 30 whatever the length).
BLOCKS = 30
# A float32's sign, exponent and first 7 bits of mantissa: bins that are less than 1 % wide, whatever the magnitude.
BIN_BITS, BINS = 16, 2**15


def windows(token_ids: Sequence[int], size: int, document_start: int | None = None) -> Iterator[list[int]]:
    """Cut a text into windows that overlap by one token, so that each token but the first is predicted exactly once.

    Args:
        token_ids: the text.
        size: the longest window, at least 2.
        document_start: a token (the BOS, say) at which a window begins in any case, so that no document is predicted
            from the one before it.
    """
    starts = [place for place, token_id in enumerate(token_ids) if place and token_id == document_start]
    for first, last in pairwise([0, *starts, len(token_ids) - 1]):
        for start in range(first, last, size - 1):
            yield list(token_ids[start : min(start + size, last + 1)])


@dataclass
class Prediction:
    """Negative log-likelihood, summed over positions (nats)."""

    nats: float = 0.0
    tokens: int = 0
    parts: list[np.ndarray] = field(default_factory=list)  # nats of each token, as the calls of `add` brought them

    def add(self, logits: np.ndarray, targets: np.ndarray) -> None:
        """Count positions.

        Args:
            logits: float32 [positions, vocab_size].
            targets: int [positions], the token that came next.
        """
        for rows in _row_slices(len(targets)):
            nats = -np.take_along_axis(log_softmax(logits[rows]), targets[rows, None], axis=1)[:, 0]
            self.nats += float(nats.sum())
            self.parts.append(nats)
        self.tokens += len(targets)

    @property
    def token_nats(self) -> np.ndarray:
        """float64 [tokens], in the order of the text."""
        return np.concatenate(self.parts) if self.parts else np.zeros(0)

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
    reverse_kl_sum: float = 0.0
    agreeing: int = 0
    shared_in_top: int = 0
    absolute_sum: float = 0.0
    max_absolute: float = 0.0
    largest_logit: float = 0.0
    positions: int = 0
    vocab_size: int = 0
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))  # of absolute differences

    def add(self, reference: np.ndarray, candidate: np.ndarray) -> None:
        """Count positions: two float32 arrays [positions, vocab_size]."""
        for rows in _row_slices(len(reference)):
            expected, found = log_softmax(reference[rows]), log_softmax(candidate[rows])
            self.kl_sum += float((np.exp(expected) * (expected - found)).sum())
            self.reverse_kl_sum += float((np.exp(found) * (found - expected)).sum())
            self.shared_in_top += _shared_in_top(reference[rows], candidate[rows])
            difference = np.abs(candidate[rows] - reference[rows])
            self.histogram += np.bincount(difference.view(np.uint32).ravel() >> BIN_BITS, minlength=BINS)
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
    def reverse_kl(self) -> float:
        """Mean KL(candidate || reference), in nats: it punishes what the candidate says and the reference would not."""
        return max(0.0, self.reverse_kl_sum / max(1, self.positions))

    @property
    def top1_agreement(self) -> float:
        """Share of positions at which both have the same likeliest token."""
        return self.agreeing / max(1, self.positions)

    @property
    def top5_agreement(self) -> float:
        """Mean share of the reference's five likeliest tokens that are among the candidate's five."""
        return self.shared_in_top / max(1, self.positions * min(TOP, self.vocab_size))

    @property
    def mean_absolute(self) -> float:
        """Mean absolute difference of a logit."""
        return self.absolute_sum / max(1, self.positions * self.vocab_size)

    def quantile(self, share: float) -> float:
        """The absolute difference that this share of all logits does not exceed, to 1 %."""
        bin_number = int(np.searchsorted(self.histogram.cumsum(), share * self.histogram.sum()))
        middle = (bin_number << BIN_BITS) + (1 << (BIN_BITS - 1)) if bin_number else 0
        return min(float(np.uint32(middle).view(np.float32)), self.max_absolute)


def mean_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float] | None:
    """A confidence interval of the mean of a correlated series, such as the nats of a text's tokens.

    Whole documents are easy or hard, so neighbouring tokens say little anew, and their own spread would promise a far
    too narrow interval. The means of long blocks of text are nearly independent: their spread gives the standard error,
    with Student's quantile for the number of blocks (batch means). The difference of two models' nats on one text has a
    much narrower interval than each of them, since the text's difficulty cancels.

    Args:
        values: float64 [tokens], in the order of the text.
        confidence: how often such an interval holds the mean.

    Returns:
        Its ends; None for fewer than two values a block.
    """
    if len(values) < 2 * BLOCKS:
        return None
    means = np.array([block.mean() for block in np.array_split(values, BLOCKS)])
    middle = float(values.mean())
    half = _student_quantile((1 + confidence) / 2, BLOCKS - 1) * float(means.std(ddof=1)) / BLOCKS**0.5
    return middle - half, middle + half


def _student_quantile(share: float, freedom: int) -> float:
    """Student's t, to 0.01 % for 29 degrees of freedom (Abramowitz & Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(share)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _shared_in_top(reference: np.ndarray, candidate: np.ndarray) -> int:
    """How many tokens are among the likeliest of both, summed over rows."""
    top = min(TOP, reference.shape[-1])
    first, second = (np.argpartition(logits, -top)[:, -top:] for logits in (reference, candidate))
    return int((first[:, :, None] == second[:, None, :]).sum())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float64 log-probabilities over the last axis."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def _row_slices(rows: int) -> Iterator[slice]:
    return (slice(start, start + ROWS_AT_ONCE) for start in range(0, rows, ROWS_AT_ONCE))
