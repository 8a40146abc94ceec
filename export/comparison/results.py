"""What a comparison found, as data: for JSON, for the manifest, for the tables and the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from export.comparison.drift import Drift
from export.comparison.footprint import Footprint
from export.comparison.outliers import Outliers
from export.comparison.token_losses import TokenLosses

QUANTILES = (0.5, 0.9, 0.99, 0.999)


@dataclass(frozen=True)
class Details:
    """What takes a second look: the inside of the graph, and processes of its own."""

    drift: Drift | None  # None: another exporter's graph, whose residual stream cannot be found
    cache_paths: dict[str, float]  # largest difference of a logit from one pass, over the largest logit
    footprint: Footprint
    token_losses: TokenLosses | None = None


@dataclass(frozen=True)
class PrecisionFigures:
    """One ONNX file against the reference. Differences are of logits, KL is in nats."""

    kl: float  # KL(reference || candidate)
    reverse_kl: float
    top1_agreement: float
    top5_agreement: float  # mean share of the five likeliest tokens that both have
    perplexity: float
    perplexity_interval: tuple[float, float] | None  # 95 %; None for too short a text
    perplexity_change: float  # of the reference's perplexity
    perplexity_change_interval: tuple[float, float] | None  # 95 %, of the two on the same tokens
    max_abs_logit_difference: float
    mean_abs_logit_difference: float
    max_relative_logit_difference: float  # the largest difference over the largest reference logit
    logit_difference_quantiles: dict[str, float]  # share of all logits -> the absolute difference it stays within
    first_divergence: int | None  # greedy tokens that agree before the first that differs; None: all of them
    first_divergence_margin: float | None  # how far apart the reference's logits of the two tokens are
    first_divergence_tokens: tuple[int, int] | None  # the reference's token, and this file's
    int8_weight_fraction: float | None
    file_bytes: int
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    details: Details | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON: flat, with the details' keys only where they were measured."""
        values = asdict(self)
        details = values.pop("details")
        if details is not None:
            values |= details.pop("footprint") | details
        return values


@dataclass(frozen=True)
class ReferenceFigures:
    """The reference on the same text."""

    name: str
    perplexity: float
    perplexity_interval: tuple[float, float] | None
    mean_nats: float


@dataclass(frozen=True)
class Comparison:
    """The figures of a bundle.

    Attributes:
        text: where the tokens came from.
        tokens: how many were predicted.
        window: tokens of context, at most.
        continued_tokens: how many the greedy continuation has.
        reference: what the precisions were held against.
        precisions: by name.
        outliers: of the reference's activations; None where they were not looked at, or cannot be seen.
    """

    text: str
    tokens: int
    window: int
    continued_tokens: int
    reference: ReferenceFigures
    precisions: dict[str, PrecisionFigures]
    outliers: Outliers | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        values: dict[str, Any] = {"text": self.text, "tokens": self.tokens, "window": self.window}
        precisions = {name: figures.to_dict() for name, figures in self.precisions.items()}
        if self.outliers is not None:
            values["outliers"] = asdict(self.outliers)
        return values | {
            "continued_tokens": self.continued_tokens,
            "reference": asdict(self.reference),
            "precisions": precisions,
        }
