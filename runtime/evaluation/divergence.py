"""How far two models' predictions lie apart: KL divergence, agreement, differences of logits."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from runtime.evaluation.logits import TOP, Logits, in_blocks

# A float32's sign, exponent and first 7 bits of mantissa: bins that are less than 1 % wide, whatever the magnitude.
BIN_BITS, BINS = 16, 2**15


@dataclass(frozen=True)
class _Block:
    """Sums over a few rows."""

    kl: float
    reverse_kl: float
    shared_in_top: int
    absolute: float
    max_absolute: float
    histogram: np.ndarray


@dataclass
class KlAccumulator:
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

    def add(self, reference: Logits, candidate: Logits) -> None:
        """Count positions, the same of both models."""
        # Computed here, in threads of their own, before the blocks below ask for them.
        _ = reference.normalizers, reference.top, candidate.normalizers
        for block in in_blocks(lambda rows: _compare(reference, candidate, rows), len(reference.values)):
            self.kl_sum += block.kl
            self.reverse_kl_sum += block.reverse_kl
            self.shared_in_top += block.shared_in_top
            self.absolute_sum += block.absolute
            self.max_absolute = max(self.max_absolute, block.max_absolute)
            self.histogram += block.histogram
        self.agreeing += int((reference.likeliest == candidate.likeliest).sum())
        self.largest_logit = max(self.largest_logit, float(np.abs(reference.values).max()))
        self.positions += len(reference.values)
        self.vocab_size = reference.values.shape[-1]

    @property
    def kl(self) -> float:
        """Mean KL(reference || candidate), in nats; rounding may leave a hair below zero, which is cut."""
        return max(0.0, self.kl_sum / max(1, self.positions))

    @property
    def reverse_kl(self) -> float:
        """Mean KL(candidate || reference), in nats: large where the candidate says what the reference would not."""
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


def _compare(reference: Logits, candidate: Logits, rows: slice) -> _Block:
    expected, found = reference.log_probabilities(rows), candidate.log_probabilities(rows)
    # The gaps need float64, since they nearly cancel in the sum. Their weights do not, and cost a third in float32.
    gap = expected - found
    kl = float(np.einsum("ij,ij->", np.exp(expected.astype(np.float32)), gap))
    reverse_kl = -float(np.einsum("ij,ij->", np.exp(found.astype(np.float32)), gap))
    difference = np.abs(candidate.values[rows] - reference.values[rows])
    return _Block(
        kl,
        reverse_kl,
        _shared_in_top(reference.top[rows], candidate.values[rows]),
        float(difference.sum(dtype=np.float64)),
        float(difference.max()),
        np.bincount(difference.view(np.uint32).ravel() >> BIN_BITS, minlength=BINS),
    )


def _shared_in_top(top: np.ndarray, candidate: np.ndarray) -> int:
    """How many of the tokens `top` are among the candidate's likeliest as well, summed over rows.

    A token is among them where fewer than that many are likelier: counting is much faster than sorting again.
    """
    values = np.take_along_axis(candidate, top, axis=1)
    likelier = [np.count_nonzero(candidate > values[:, [k]], axis=1) for k in range(top.shape[1])]
    return int((np.array(likelier) < top.shape[1]).sum())
