"""A comparison as a table for the terminal."""

from __future__ import annotations

from export.compare import Comparison, PrecisionFigures

HEADER = (
    "precision", "MB", "int8", "max |d|", "mean |d|", "KL nats", "top-1", "perplexity", "greedy", "prefill", "decode",
)  # fmt: skip


def table(comparison: Comparison) -> str:
    """One row a precision, PyTorch's first, and a line that says what was measured."""
    perplexity = comparison.reference["perplexity"]
    rows = [HEADER, ("PyTorch", "", "", "", "", "", "", f"{perplexity:.4f}", "", "", "")]
    rows += [_row(name, figures, comparison) for name, figures in comparison.precisions.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.append(
        f"{comparison.tokens:,} tokens of {comparison.text}, windows of {comparison.window}; "
        f"|d|: differences of logits; greedy: of {comparison.continued_tokens} tokens, how many agree before "
        "the first that differs; prefill and decode in tokens per second"
    )
    return "\n".join(lines)


def _row(name: str, figures: PrecisionFigures, comparison: Comparison) -> tuple[str, ...]:
    change = figures.perplexity / comparison.reference["perplexity"] - 1
    share = figures.int8_weight_fraction
    agreeing = comparison.continued_tokens if figures.first_divergence is None else figures.first_divergence
    return (
        name,
        f"{figures.file_bytes / 1e6:.1f}",
        "" if share is None else f"{share:.1%}",
        f"{figures.max_abs_logit_difference:.2g}",
        f"{figures.mean_abs_logit_difference:.2g}",
        f"{figures.kl:.2g}",
        f"{figures.top1_agreement:.2%}",
        f"{figures.perplexity:.4f} ({change:+.2%})",
        f"{agreeing}/{comparison.continued_tokens}",
        f"{figures.prefill_tokens_per_second:,.0f}",
        f"{figures.decode_tokens_per_second:,.0f}",
    )
