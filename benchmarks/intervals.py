"""How sure a median is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

CONFIDENCE = 0.95


class Median(NamedTuple):
    """A median, and the interval in which it lies with `confidence`."""

    value: float
    low: float
    high: float
    confidence: float


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Median:
    """The median of independent values, whatever their distribution.

    The interval between the k-th smallest and the k-th largest of n values holds the true median unless fewer than k
    values lie on one side of it: with probability 1 - 2 * P(Binomial(n, 1/2) < k) (Thompson 1936). The narrowest one
    that reaches `confidence` is taken; where none does (below 6 values at 95 %), all values, with what they reach.

    Raises:
        ValueError: no values.
    """
    ordered, n = sorted(values), len(values)
    if not n:
        raise ValueError("no values have no median")
    outside, kept = 0.0, 0.0
    k = 0
    while k < (n + 1) // 2:
        outside += 2 * math.comb(n, k) / 2**n
        if k and 1 - outside < confidence:
            break
        kept = max(0.0, 1 - outside)
        k += 1
    return Median(statistics.median(ordered), ordered[k - 1], ordered[n - k], kept)
