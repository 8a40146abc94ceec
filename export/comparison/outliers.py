"""Where a model's activations have outliers: features and tokens far larger than the rest.

What shares a scale with an outlier keeps few steps, so outliers say beforehand where quantization will cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Outliers:
    """Of the residual stream, at each place: after the embedding, and after every attention and MLP.

    A token's ratio is its largest magnitude over its median one.

    Attributes:
        largest_ratios: the largest ratio of any token.
        typical_ratios: the median ratio over tokens.
        kurtosis: mean x^4 over squared mean x^2, the median over tokens: 3 for a normal distribution, hidden_size where
            one feature is all.
        features: the feature that is largest for most tokens.
        positions: of the token with the largest ratio.
        token_ids: of that token.
    """

    largest_ratios: list[float]
    typical_ratios: list[float]
    kurtosis: list[float]
    features: list[int]
    positions: list[int]
    token_ids: list[int]

    @classmethod
    def of(cls, residuals: Sequence[np.ndarray], token_ids: Sequence[int]) -> Outliers:
        """From a stream as `Reference.residuals` gives it for these tokens."""
        found = [_outliers(np.abs(values.astype(np.float64))) for values in residuals]
        largest, typical, kurtosis, features, positions = (list(column) for column in zip(*found, strict=True))
        return cls(largest, typical, kurtosis, features, positions, [token_ids[position] for position in positions])


def _outliers(sizes: np.ndarray) -> tuple[float, float, float, int, int]:
    """Of magnitudes float64 [tokens, hidden_size], in the order of the fields."""
    tiny = np.finfo(np.float32).tiny
    ratios = sizes.max(-1) / np.maximum(np.median(sizes, axis=-1), tiny)
    squares = np.square(sizes)
    kurtosis = np.square(squares).mean(-1) / np.maximum(np.square(squares.mean(-1)), tiny)
    feature = np.bincount(sizes.argmax(-1)).argmax()
    position = int(ratios.argmax())
    return float(ratios[position]), float(np.median(ratios)), float(np.median(kurtosis)), int(feature), position
