"""Which layer loses how much: the residual stream of a graph against the reference's, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Drift:
    """Relative errors of the residual stream: mean over tokens of |difference| / |reference|, Euclidean norms.

    Errors add up along the stream, so a part's own loss is the step from the one before. The mean over tokens keeps
    the few with huge activations (a BOS token, say) from hiding all others.

    Attributes:
        embedding: before the first layer.
        attention: after each layer's attention.
        mlp: after each layer's MLP.
    """

    embedding: float
    attention: list[float]
    mlp: list[float]

    @classmethod
    def between(cls, expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> Drift:
        """From two streams as `Reference.residuals` gives them."""
        errors = [_relative_error(*pair) for pair in zip(expected, found, strict=True)]
        return cls(errors[0], errors[1::2], errors[2::2])

    @property
    def steps(self) -> list[tuple[str, float]]:
        """Every point of the stream in order: its name and the error there."""
        layers = [
            point
            for layer, (attention, mlp) in enumerate(zip(self.attention, self.mlp, strict=True))
            for point in ((f"layer {layer} attention", attention), (f"layer {layer} MLP", mlp))
        ]
        return [("embedding", self.embedding), *layers]

    @property
    def growth(self) -> list[tuple[str, float]]:
        """What each part adds to the error, the one that adds most first."""
        points = [("", 0.0), *self.steps]
        added = [(after[0], after[1] - before[1]) for before, after in pairwise(points)]
        return sorted(added, key=lambda part: -part[1])

    @property
    def worst(self) -> str:
        """The part that adds most to the error."""
        return self.growth[0][0]


def _relative_error(expected: np.ndarray, found: np.ndarray) -> float:
    difference = np.linalg.norm(found.astype(np.float64) - expected, axis=-1)
    size = np.linalg.norm(expected.astype(np.float64), axis=-1)
    return float((difference / np.maximum(size, np.finfo(np.float32).tiny)).mean())
