"""How far two models' predictions lie apart: KL divergence, agreement, differences of logits."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from runtime.evaluation.logits import TOP, Logits, block_rows, blocks, in_spans

# A float32's sign, exponent and first 7 bits of mantissa: bins that are less than 1 % wide, whatever the magnitude.
BIN_BITS, BINS = 16, 2**15
# Of a row's differences this many are put into bins, other ones in every row.
BINNED = 4096
# Beyond this, exp and the probability that it is multiplied by leave float32's range.
MOST_SHIFT = 60.0
# Up to this e^t - 1 - t is a series of three terms, to 1e-7.
SMALL_SHIFT = 0.02


@dataclass(frozen=True)
class _Span:
    """Sums over some rows, and the KL of each."""

    kl: np.ndarray
    reverse_kl: np.ndarray
    absolute: float
    max_absolute: float
    histogram: np.ndarray


@dataclass
class KlAccumulator:
    """How far a candidate's logits lie from a reference's, over positions."""

    reverse_kl_sum: float = 0.0
    agreeing: int = 0
    shared_in_top: int = 0
    absolute_sum: float = 0.0
    max_absolute: float = 0.0
    largest_logit: float = 0.0
    positions: int = 0
    vocab_size: int = 0
    kl_parts: list[np.ndarray] = field(default_factory=list)
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))  # of absolute differences

    def add(self, reference: Logits, candidate: Logits) -> None:
        """Count positions, the same of both models."""
        _ = reference.normalizers  # computed here, in threads of their own, before the spans ask for them
        for span in in_spans(
            lambda rows: _compare(reference, candidate, rows), len(reference.values), reference.threads
        ):
            self.kl_parts.append(span.kl)
            self.reverse_kl_sum += float(span.reverse_kl.sum())
            self.absolute_sum += span.absolute
            self.max_absolute = _larger(self.max_absolute, span.max_absolute)
            self.histogram += span.histogram
        self.shared_in_top += int((reference.top[:, :, None] == candidate.top[:, None, :]).sum())
        self.agreeing += int((reference.likeliest == candidate.likeliest).sum())
        self.largest_logit = max(self.largest_logit, reference.largest)
        self.positions += len(reference.values)
        self.vocab_size = reference.values.shape[-1]

    def merge(self, later: KlAccumulator) -> None:
        """Count what another has counted, of positions that come after ours."""
        self.kl_parts += later.kl_parts
        self.histogram += later.histogram
        self.max_absolute = _larger(self.max_absolute, later.max_absolute)
        self.largest_logit = max(self.largest_logit, later.largest_logit)
        self.vocab_size = max(self.vocab_size, later.vocab_size)
        for name in ("reverse_kl_sum", "agreeing", "shared_in_top", "absolute_sum", "positions"):
            setattr(self, name, getattr(self, name) + getattr(later, name))

    @property
    def token_kl(self) -> np.ndarray:
        """float64 [positions]: KL(reference || candidate) at each, in nats."""
        return np.concatenate([np.zeros(0), *self.kl_parts])

    @property
    def kl(self) -> float:
        """Mean KL(reference || candidate), in nats; rounding may leave a hair below zero, which is cut."""
        return _larger(0.0, sum(float(part.sum()) for part in self.kl_parts) / max(1, self.positions))

    @property
    def reverse_kl(self) -> float:
        """Mean KL(candidate || reference), in nats: large where the candidate says what the reference would not."""
        return _larger(0.0, self.reverse_kl_sum / max(1, self.positions))

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
        """The absolute difference that this share of all logits does not exceed, to 1 %.

        Of a vocabulary above 4,096 it comes from a sample of each row's differences.
        """
        bin_number = int(np.searchsorted(self.histogram.cumsum(), share * self.histogram.sum()))
        middle = (bin_number << BIN_BITS) + (1 << (BIN_BITS - 1)) if bin_number else 0
        return min(float(np.uint32(middle).view(np.float32)), self.max_absolute)


def _larger(one: float, other: float) -> float:
    """The larger number, or NaN, unlike Python's `max`: a broken graph must not look like a good one."""
    return float(np.maximum(one, other))


def _compare(reference: Logits, candidate: Logits, span: slice) -> _Span:
    vocab_size = reference.values.shape[-1]
    scratch = np.empty((3, block_rows(vocab_size), vocab_size), np.float32)
    kl, reverse_kl, binned = [], [], []
    absolute, max_absolute, every = 0.0, 0.0, max(1, vocab_size // BINNED)
    for block in blocks(span, vocab_size):
        shift, weight, other = scratch[:, : block.stop - block.start]
        expected, found = reference.values[block], candidate.values[block]
        np.subtract(found, expected, out=shift)
        np.abs(shift, out=other)
        absolute += float(other.sum(-1).sum(dtype=np.float64))
        max_absolute = _larger(max_absolute, float(other.max()))
        binned.append(other.view(np.uint32)[:, block.start % every :: every].ravel() >> BIN_BITS)
        np.subtract(expected, reference.normalizers[block, None].astype(np.float32), out=weight)
        np.exp(weight, out=weight)
        shift -= np.vecdot(weight, shift)[:, None]
        if shift.max() > MOST_SHIFT:
            forward, backward = _far_apart(expected, found)
        else:
            forward, backward = _close(weight, shift, other)
        kl.append(forward)
        reverse_kl.append(backward)
    histogram = np.bincount(np.concatenate(binned), minlength=BINS)
    return _Span(np.concatenate(kl), np.concatenate(reverse_kl), absolute, max_absolute, histogram)


def _close(p: np.ndarray, t: np.ndarray, scratch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """KL both ways, float64 [rows], in float32 arithmetic without loss of digits, however small it is.

    With q = p e^t / Z, Z the mean of e^t under p, KL(p || q) = ln Z - E[t] and KL(q || p) = E[t e^t] / Z - ln Z. These
    are differences of numbers that nearly cancel, so each is summed without what cancels: E[e^t - 1 - t], whose terms
    are all positive, E[t], which the caller has brought near zero, and E[t (e^t - 1)], whose terms are positive too.

    Args:
        p: float32 [rows, vocab_size], the reference's probabilities. It is overwritten.
        t: float32, the candidate's logits less the reference's, up to a constant of each row.
        scratch: float32, overwritten.
    """
    excess = _excess(t, out=scratch)
    mean = np.vecdot(p, t).astype(np.float64)
    growth = np.vecdot(p, excess) + mean
    excess += t
    p *= excess
    tilted = np.vecdot(p, t) + mean
    log_growth = np.log1p(growth)
    return log_growth - mean, tilted / (1 + growth) - log_growth


def _excess(t: np.ndarray, out: np.ndarray) -> np.ndarray:
    """e^t - 1 - t, into `out`. For small t it is t^2 / 2, which expm1(t) - t would find in expm1's last bits."""
    if np.abs(t, out=out).max() < SMALL_SHIFT:
        np.multiply(t, np.float32(1 / 24), out=out)
        out += np.float32(1 / 6)
        out *= t
        out += np.float32(1 / 2)
        out *= t
        out *= t
        return out
    np.expm1(t, out=out)
    out -= t
    return out


def _far_apart(expected: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """KL both ways, float64 [rows], by its definition: for logits that differ by more than float32's exp can hold."""
    p, q = (
        rows - np.log(np.exp(rows).sum(-1, keepdims=True))
        for rows in (values - values.max(-1, keepdims=True).astype(np.float64) for values in (expected, found))
    )
    return (np.exp(p) * (p - q)).sum(-1), (np.exp(q) * (q - p)).sum(-1)
