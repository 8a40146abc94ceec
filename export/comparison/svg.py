"""Small plots as SVG markup for an HTML page: labels, colours and numbers in, a few kilobytes of text out.

They load no scripts and no fonts, and scale with the page. matplotlib's are six times as large
(docs/decisions/0022-what-we-write-ourselves.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

# Drawn at the width of a phone; the page scales them up.
WIDTH, ROW, LABEL, MARGIN = 360, 30, 66, 10
STRIP_LABEL = 112
PLOT_HEIGHT, AXIS_LEFT, AXIS_BOTTOM = 190, 46, 30
GRID, ZERO, TEXT = "#e5e7eb", "#9ca3af", "#4b5563"


@dataclass(frozen=True)
class Bar:
    """A row of a chart; `low` and `high` are the ends of a whisker."""

    label: str
    colour: str
    value: float
    text: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """A line of a line chart, one value for each place on the x axis."""

    label: str
    colour: str
    values: Sequence[float]


@dataclass(frozen=True)
class Row:
    """A row of `strips`: its name, a remark, and a value for each colour; None for none."""

    label: str
    note: str
    values: Sequence[float | None]


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Horizontal bars from zero."""
    width = (WIDTH - LABEL - MARGIN) / (max(row.value for row in rows) or 1)
    parts = []
    for number, row in enumerate(rows):
        y = number * (ROW + 8)
        parts.append(_text(0, y + 15, row.label, size=13, weight=600))
        parts.append(
            f'<rect x="{LABEL}" y="{y}" width="{max(1.5, row.value * width):.1f}" height="{ROW - 12}" rx="3" '
            f'fill="{row.colour}" fill-opacity=".85"/>'
        )
        parts.append(_text(LABEL, y + ROW, row.text))
    return _svg(title, len(rows) * (ROW + 8), parts)


def dots(title: str, rows: Sequence[Bar], *, least: float) -> str:
    """Points on a logarithmic scale; what is below `least` stands at its left end."""
    low = round(math.log10(least))
    high = max(low + 1, math.ceil(math.log10(max(row.value for row in rows) or least)))
    height = len(rows) * (ROW + 8)

    def place(x: float) -> float:
        return LABEL + 14 + (math.log10(max(x, least)) - low) / (high - low) * (WIDTH - LABEL - 44)

    parts = []
    for power in range(low, high + 1):
        x = place(10.0**power)
        parts.append(_line(x, 0, x, height - 6, GRID))
        parts.append(_text(x, height + 10, "≤" * (power == low) + _power(power), anchor="middle"))
    return _svg(title, height + 16, [*parts, *_points(rows, place)])


def strips(title: str, rows: Sequence[Row], colours: Sequence[str], *, least: float) -> str:
    """Points of several colours in each row, on a logarithmic scale; what is below `least` stands at its left end."""
    values = [value for row in rows for value in row.values if value is not None]
    low = max(math.log10(least), math.floor(math.log10(max(min(values), least))))
    high = max(low + 1, math.ceil(math.log10(max(*values, least))))
    height = len(rows) * ROW

    def place(x: float) -> float:
        return STRIP_LABEL + (math.log10(max(x, least)) - low) / (high - low) * (WIDTH - STRIP_LABEL - 20)

    parts = []
    for power in range(round(low), round(high) + 1, math.ceil((high - low) / 5)):
        x = place(10.0**power)
        parts.append(_line(x, 0, x, height - 4, GRID))
        cut = "≤" * (power == round(low) and min(values) < 10.0**power)
        parts.append(_text(x, height + 12, cut + _power(power), anchor="middle"))
    for number, row in enumerate(rows):
        y = number * ROW + 11
        parts.append(_text(0, y, row.label, weight=600))
        parts.append(_text(0, y + 12, row.note, size=10))
        shown = [(place(value), colour) for value, colour in zip(row.values, colours, strict=True) if value is not None]
        if shown:
            parts.append(_line(min(shown)[0], y, max(shown)[0], y, GRID, width=2))
        parts += [f'<circle cx="{x:.1f}" cy="{y}" r="4.5" fill="{colour}"/>' for x, colour in shown]
    return _svg(title, height + 18, parts)


def whiskers(title: str, rows: Sequence[Bar], *, unit: float, tick: Callable[[float], str]) -> str:
    """Points with intervals around zero, on a scale that is linear up to `unit` and logarithmic beyond."""

    def scale(x: float) -> float:
        return math.copysign(math.log10(1 + abs(x) / unit), x)

    ends = [end for row in rows for end in (row.low, row.high, row.value) if end is not None]
    low, high = min(*ends, -unit), max(*ends, unit)
    span = scale(high) - scale(low)

    def place(x: float) -> float:
        return LABEL + 14 + (scale(x) - scale(low)) / span * (WIDTH - LABEL - 14 - 24)

    height = len(rows) * (ROW + 8)
    reach = max(-low, high)
    powers = range(1, 12) if reach >= 10 * unit else range(1)
    decades = [unit * 10**power for power in powers if unit * 10**power <= reach]
    parts = []
    for x in (0.0, *(x for decade in decades for x in (decade, -decade) if low <= x <= high)):
        parts.append(_line(place(x), 0, place(x), height - 6, ZERO if x == 0 else GRID))
        parts.append(_text(place(x), height + 10, tick(x), anchor="middle"))
    return _svg(title, height + 16, [*parts, *_points(rows, place)])


def _points(rows: Sequence[Bar], place: Callable[[float], float]) -> Iterator[str]:
    """A point a row, with its whisker and text."""
    for number, row in enumerate(rows):
        y = number * (ROW + 8) + 9
        yield _text(0, y + 5, row.label, size=13, weight=600)
        if row.low is not None and row.high is not None:
            yield _line(place(row.low), y, place(row.high), y, row.colour, width=3)
        yield f'<circle cx="{place(row.value):.1f}" cy="{y}" r="5.5" fill="{row.colour}"/>'
        yield _text(LABEL, y + 21, row.text)


def lines(title: str, x_labels: Sequence[str], series: Sequence[Line]) -> str:
    """Lines over named places, on a logarithmic scale; values of zero are left out."""
    positive = [value for line in series for value in line.values if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    high = max(high, low + 1)
    step = (WIDTH - AXIS_LEFT - MARGIN) / max(1, len(x_labels) - 1)

    def y_of(value: float) -> float:
        return MARGIN + (high - math.log10(value)) / (high - low) * (PLOT_HEIGHT - MARGIN - AXIS_BOTTOM)

    parts = []
    every = math.ceil((high - low) / 6)
    for power in range(low, high + 1, every):
        parts.append(_line(AXIS_LEFT, y_of(10.0**power), WIDTH - MARGIN, y_of(10.0**power), GRID))
        parts.append(_text(AXIS_LEFT - 6, y_of(10.0**power) + 4, _power(power), anchor="end"))
    for number, label in enumerate(x_labels):
        if label:
            anchor = "end" if number == len(x_labels) - 1 and number else "middle"
            x = AXIS_LEFT + number * step + (MARGIN - 2 if anchor == "end" else 0)
            parts.append(_text(x, PLOT_HEIGHT - 10, label, anchor=anchor))
    for line in series:
        points = [(AXIS_LEFT + i * step, y_of(value)) for i, value in enumerate(line.values) if value > 0]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{joined}" fill="none" stroke="{line.colour}" stroke-width="2"/>')
        if len(points) <= 16:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{line.colour}"/>' for x, y in points]
    return _svg(title, PLOT_HEIGHT, parts)


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _power(power: int) -> str:
    return f"{10.0**power:g}" if abs(power) <= 3 else f"1e{power}"


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start", weight: int = 400) -> str:
    """With a white edge, so that it can be read across a line."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{TEXT}" stroke="#fff" stroke-width="3" paint-order="stroke">{escape(text)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}" '
        'stroke-linecap="round"/>'
    )
