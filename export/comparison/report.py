"""A comparison as a table for the terminal: the essential columns, within a hundred characters."""

from __future__ import annotations

from collections.abc import Sequence

from export.comparison.results import Comparison, PrecisionFigures

HEADER = ("precision", "MB", "int8", "KL nats", "top-1", "perplexity", "greedy", "prefill", "decode")
LEGEND = (
    "perplexity: and its change, ± half of the 95 % interval; greedy: tokens that agree before the first\n"
    "that differs; prefill and decode: tokens per second"
)
PEAK = "peak MB"


def table(comparison: Comparison) -> str:
    """One row a precision, the reference's first, and lines that say what was measured."""
    with_details = all(figures.details for figures in comparison.precisions.values())
    header = (*HEADER, PEAK) if with_details else HEADER
    first = [""] * len(header)
    first[0], first[HEADER.index("perplexity")] = comparison.reference.name, f"{comparison.reference.perplexity:.4f}"
    rows = [header, first]
    rows += [_row(name, figures, comparison.continued_tokens) for name, figures in comparison.precisions.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines += [f"{comparison.tokens:,} tokens of {comparison.text}, windows of {comparison.window}", LEGEND]
    return "\n".join(lines)


def change_text(change: float, interval: Sequence[float] | None, digits: int = 2) -> str:
    """A change of the perplexity, with half its 95 % interval where there is one: `+0.08 ±0.09 %`."""
    half = "" if interval is None else f" ±{50 * (interval[1] - interval[0]):.{digits}f}"
    return f"{round(100 * change, digits) + 0.0:+.{digits}f}{half} %"  # + 0.0 takes the sign off a zero


def _row(name: str, figures: PrecisionFigures, continued_tokens: int) -> tuple[str, ...]:
    share = figures.int8_weight_fraction
    agreeing = continued_tokens if figures.first_divergence is None else figures.first_divergence
    row = (
        name,
        f"{figures.file_bytes / 1e6:.1f}",
        "" if share is None else f"{share:.0%}",
        f"{figures.kl:.1e}",
        f"{figures.top1_agreement:.2%}",
        f"{figures.perplexity:.4f} ({change_text(figures.perplexity_change, figures.perplexity_change_interval)})",
        f"{agreeing}/{continued_tokens}",
        f"{figures.prefill_tokens_per_second:,.0f}",
        f"{figures.decode_tokens_per_second:,.0f}",
    )
    return row if figures.details is None else (*row, f"{figures.details.footprint.peak_memory_bytes / 1e6:,.0f}")
