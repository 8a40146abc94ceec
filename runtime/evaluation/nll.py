"""How well a model predicts a text: negative log-likelihood and perplexity."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from runtime.evaluation.logits import Logits


@dataclass
class NllAccumulator:
    """Negative log-likelihood of a text's tokens, summed over positions.

    Attributes:
        parts: nats of each token, an array for each call of `add`.
    """

    parts: list[np.ndarray] = field(default_factory=list)

    def add(self, logits: Logits, targets: np.ndarray) -> None:
        """Count positions.

        Args:
            logits: of the model.
            targets: int [positions], the token that came next.
        """
        self.parts.append(logits.nats(targets))

    @property
    def token_nats(self) -> np.ndarray:
        """float64 [tokens], in the order of the text."""
        return np.concatenate([np.zeros(0), *self.parts])

    @property
    def tokens(self) -> int:
        """How many were counted."""
        return sum(map(len, self.parts))

    @property
    def nats(self) -> float:
        """The sum."""
        return float(sum(part.sum() for part in self.parts))

    @property
    def mean_nats(self) -> float:
        """Nats per token."""
        return self.nats / max(1, self.tokens)

    @property
    def perplexity(self) -> float:
        """Exp of the mean."""
        return float(np.exp(self.mean_nats))
