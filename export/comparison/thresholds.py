"""The limits of a comparison: from defaults and options, and which figures exceed them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from export.comparison.results import Comparison, PrecisionFigures
from export.errors import ExportError
from runtime.precisions import PRECISIONS, Limits

ALL = "*"
OPTIONS = {"max_kl": "--max-kl", "min_top1": "--min-top1", "max_perplexity_change": "--max-perplexity-change"}


def parse_limits(given: Mapping[str, str | None], precisions: Iterable[str]) -> dict[str, Limits]:
    """From options to the limits of each precision.

    Args:
        given: field of `Limits` -> what the user typed: `0.01` for every precision, or `int8=0.01,q4=0.2` for some;
            None or absent for the defaults.
        precisions: of the bundle.

    Raises:
        ExportError: not a number, or a precision that the bundle lacks.
    """
    limits = {name: PRECISIONS[name].limits for name in precisions}
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
