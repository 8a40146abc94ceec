"""The verdict of a comparison: which figures exceed their limits, and which precisions are not fit for use.

A limit is passed where an export is wrong: a scale, a bias, another model's weights. A precision may be made right and
yet lose more than a model in use should.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from export.comparison.results import Comparison, PrecisionFigures
from export.errors import ExportError
from runtime.precisions import PRECISIONS, Limits

ALL = "*"
OPTIONS = {"max_kl": "--max-kl", "min_top1": "--min-top1", "max_perplexity_change": "--max-perplexity-change"}

# A precision that finds another token likeliest more often than at one position in ten writes another text.
FIT_TOP1 = 0.9


def parse_limits(
    given: Mapping[str, str | None], precisions: Iterable[str], *, parameters: int | None = None
) -> dict[str, Limits]:
    """From options to the limits of each precision.

    Args:
        given: field of `Limits` -> what the user typed: `0.01` for every precision, or `int8=0.01,q4=0.2` for some;
            None or absent for the defaults.
        precisions: of the bundle.
        parameters: of the model, whose size the defaults depend on; None where it is not known.

    Raises:
        ExportError: not a number, or a precision that the bundle lacks.
    """
    limits = {name: PRECISIONS[name].limits_at(parameters) for name in precisions}
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


def unfit(comparison: Comparison) -> dict[str, str]:
    """The precisions that are not fit for use on this model, each with a line that says why and what to take."""
    agreements = {name: figures.top1_agreement for name, figures in comparison.precisions.items()}
    fit = [name for name, agreement in agreements.items() if agreement >= FIT_TOP1]
    best = min(fit, key=lambda name: comparison.precisions[name].file_bytes, default=None)
    advice = "" if best is None else f"; {best} agrees at {agreements[best]:.1%}"
    return {
        name: f"{name} is not fit for use on this model: its likeliest token is {comparison.reference.name}'s at "
        f"{agreement:.1%} of positions, below {FIT_TOP1:.0%}{advice}"
        for name, agreement in agreements.items()
        if name not in fit
    }


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
