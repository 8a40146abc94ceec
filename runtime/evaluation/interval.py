"""How sure a mean over a text is: confidence intervals of correlated series."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

# Parts of a text for a confidence interval: more would be too short to be independent, fewer tell too little of the
# spread (Schmeiser, Operations Research 30, 1982: 10 to 30 whatever the length).
BLOCKS = 30


def mean_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float] | None:
    """A confidence interval of the mean of a correlated series, such as the nats of a text's tokens.

    Whole documents are easy or hard, so neighbouring tokens are correlated, and their own spread would give a far too
    narrow interval. The means of long blocks of text are nearly independent: their spread gives the standard error,
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
