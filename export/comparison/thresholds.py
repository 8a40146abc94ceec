"""How far a precision may be from the reference before CI should stop: limits with defaults, as options give them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from export.comparison.results import Comparison, PrecisionFigures
from export.errors import ExportError

ALL = "*"
OPTIONS = {"max_kl": "--max-kl", "min_top1": "--min-top1", "max_perplexity_change": "--max-perplexity-change"}


@dataclass(frozen=True)
class Limits:
    """For one precision. KL in nats; the change of the perplexity counts in either direction."""

    max_kl: float
    min_top1: float
    max_perplexity_change: float


# What a right export keeps even where quantization is hardest, on models of less than a million parameters; a wrong
# scale, a dropped bias or another model's weights are far outside. Tighten them for a model that you know.
DEFAULT_LIMITS = {
    "fp32": Limits(1e-5, 0.99, 1e-4),
    "fp16": Limits(1e-3, 0.98, 0.002),
    "int8": Limits(0.01, 0.9, 0.01),
    "q8": Limits(0.02, 0.9, 0.02),
    # Heads of 8 features make an int8 cache dear; those of 64 add nothing to speak of.
    "fp32-kv8": Limits(0.03, 0.9, 0.03),
    "int8-kv8": Limits(0.03, 0.9, 0.03),
    "q8-kv8": Limits(0.04, 0.9, 0.04),
}
# Four bits and mixtures.
OTHER_LIMITS = Limits(0.3, 0.7, 0.3)


def parse_limits(given: Mapping[str, str | None], precisions: Iterable[str]) -> dict[str, Limits]:
    """From options to the limits of each precision.

    Args:
        given: field of `Limits` -> what the user typed: `0.01` for every precision, or `int8=0.01,q4=0.2` for some;
            None or absent for the defaults.
        precisions: those that there are.

    Raises:
        ExportError: no number, or a precision that there is not.
    """
    limits = {name: DEFAULT_LIMITS.get(name, OTHER_LIMITS) for name in precisions}
    for field, text in given.items():
        parsed = {} if text is None else _parse(OPTIONS[field], text)
        if unknown := parsed.keys() - {ALL, *limits}:
            raise ExportError(f"{OPTIONS[field]}: no {', '.join(sorted(unknown))} here; there are {', '.join(limits)}")
        for name, old in limits.items():
            value = parsed.get(name, parsed.get(ALL))
            limits[name] = old if value is None else dataclasses.replace(old, **{field: value})
    return limits


def shortfalls(comparison: Comparison, limits: Mapping[str, Limits]) -> list[str]:
    """What falls short, one line each: the precision, the figure and the limit."""
    return [
        line for name, figures in comparison.precisions.items() for line in _shortfalls(name, figures, limits[name])
    ]


def _shortfalls(name: str, figures: PrecisionFigures, limits: Limits) -> list[str]:
    change = abs(figures.perplexity_change)
    # Written so that NaN falls short.
    checks = (
        (figures.kl <= limits.max_kl, f"KL {figures.kl:.3g} is above {limits.max_kl:g} (--max-kl)"),
        (
            figures.top1_agreement >= limits.min_top1,
            f"top-1 agreement {figures.top1_agreement:.4f} is below {limits.min_top1:g} (--min-top1)",
        ),
        (
            change <= limits.max_perplexity_change,
            f"perplexity changed by {change:.2%}, more than {limits.max_perplexity_change:g} (--max-perplexity-change)",
        ),
    )
    return [f"{name}: {message}" for holds, message in checks if not holds]


def _parse(option: str, text: str) -> dict[str, float]:
    limits = {}
    for part in text.split(","):
        name, _, number = part.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if not value >= 0:
            raise ExportError(f"{option} takes a number, or int8=NUMBER,q4=NUMBER; not {text!r}")
        limits[name.strip() or ALL] = value
    return limits
