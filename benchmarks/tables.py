"""Rates of engines as a table of ratios: in the terminal, and in a Markdown file beside other machines' tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.intervals import Median, median_interval
from benchmarks.workloads import WORKLOADS
from model.files import write_text

# Workload -> engine -> tokens per second of each round.
Rates = Mapping[str, Mapping[str, list[float]]]


def ratio(figures: list[float], base: list[float]) -> Median:
    """Of an engine to the first one, taken round by round."""
    return median_interval([a / b for a, b in zip(figures, base, strict=True)])


def text_table(rates: Rates, peak_bytes: Mapping[str, int]) -> str:
    """Median tokens per second, and the ratio to the first engine with its interval."""
    width = max(map(len, peak_bytes)) + 1
    lines = [f"{'':<14} {'engine':<{width}} {'tokens/s':>9}   ratio (its interval)"]
    for workload, engines in rates.items():
        base = next(iter(engines.values()))
        for label, figures in engines.items():
            found = ratio(figures, base)
            interval = f"{found.value:.2f}  ({found.low:.2f} to {found.high:.2f} at {found.confidence:.0%})"
            speed = median_interval(figures).value
            lines.append(f"{workload:<14} {label:<{width}} {speed:>9,.0f}   {interval}")
    lines += [f"{'peak memory':<14} {label:<{width}} {size / 1e6:>9,.0f}   MB" for label, size in peak_bytes.items()]
    return "\n".join(lines)


def markdown_table(title: str, rates: Rates, peak_bytes: Mapping[str, int]) -> str:
    """The same as Markdown, an engine a row; bold where the whole interval is above the first engine."""
    names = [workload.name for workload in WORKLOADS]
    lines = [f"| {title} | {' | '.join(names)} | peak MB |", "|---" * (len(names) + 2) + "|"]
    for number, label in enumerate(peak_bytes):
        cells = [_cell(rates[name][label], next(iter(rates[name].values())), number == 0) for name in names]
        lines.append(f"| {label} | {' | '.join(cells)} | {peak_bytes[label] / 1e6:,.0f} |")
    return "\n".join(lines)


def _cell(figures: list[float], base: list[float], is_base: bool) -> str:
    if is_base:
        return f"1 ({median_interval(figures).value:,.0f} tokens/s)"
    found = ratio(figures, base)
    value = f"{found.value:.2f}"
    return f"{f'**{value}**' if found.low > 1 else value} ({found.low:.2f} to {found.high:.2f})"


def replace_section(path: Path, name: str, content: str) -> None:
    """Put a section into a Markdown file in place of the one of that name, or at its end; others stay as they are."""
    begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->\n"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    section = f"{begin}{content.rstrip()}\n{end}"
    before, found, rest = text.partition(begin)
    if found:
        text = before + section + rest.partition(end)[2]
    else:
        text = f"{text.rstrip()}\n\n{section}" if text.strip() else section
    write_text(path, text)
