"""What a model predicted over a text: sums, and numbers for each token."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from runtime.evaluation.divergence import KlAccumulator
from runtime.evaluation.logits import Logits
from runtime.evaluation.nll import NllAccumulator


@dataclass
class Predictions:
    """One model's, over the windows of a text in order."""

    nll: NllAccumulator = field(default_factory=NllAccumulator)
    divergence: KlAccumulator = field(default_factory=KlAccumulator)  # from the reference; empty for itself
    likeliest_parts: list[np.ndarray] = field(default_factory=list)
    likeliest_nats_parts: list[np.ndarray] = field(default_factory=list)

    def add(self, logits: Logits, targets: np.ndarray, reference: Logits | None = None) -> None:
        """Count a window's positions."""
        self.nll.add(logits, targets)
        self.likeliest_parts.append(logits.likeliest)
        self.likeliest_nats_parts.append(logits.likeliest_nats)
        if reference is not None:
            self.divergence.add(reference, logits)

    def merge(self, later: Predictions) -> None:
        """Count what another has counted, of windows that come after ours."""
        self.nll.parts += later.nll.parts
        self.divergence.merge(later.divergence)
        self.likeliest_parts += later.likeliest_parts
        self.likeliest_nats_parts += later.likeliest_nats_parts

    @property
    def likeliest(self) -> np.ndarray:
        """int64 [tokens]: the likeliest token at each position."""
        return np.concatenate(self.likeliest_parts)

    @property
    def likeliest_probabilities(self) -> np.ndarray:
        """float64 [tokens]: its probability."""
        return np.exp(-np.concatenate(self.likeliest_nats_parts))
