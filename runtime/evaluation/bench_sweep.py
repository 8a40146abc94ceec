"""Many measurements: a row for each combination of precision, threads, depth, prompt and new tokens; their table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from runtime.bundle import Bundle
from runtime.engine.session import DecoderSession
from runtime.evaluation.bandwidth import read_bandwidth
from runtime.evaluation.bench import BenchRow, bench, check_bench


@dataclass(frozen=True)
class Sweep:
    """What to measure: every combination of the lists.

    Raises:
        OptionError: one of them cannot be measured with this model.
    """

    bundle: Bundle
    precisions: Sequence[str]
    threads: Sequence[int | None]
    prompt_tokens: Sequence[int]
    new_tokens: Sequence[int]
    depths: Sequence[int]
    repeats: int

    def __post_init__(self) -> None:
        for precision in self.precisions:
            self.bundle.model_file(precision)
        for depth, prompt, new in product(self.depths, self.prompt_tokens, self.new_tokens):
            check_bench(
                self.bundle.shape.max_position_embeddings,
                prompt_tokens=prompt,
                new_tokens=new,
                depth=depth,
                repeats=self.repeats,
            )

    def __len__(self) -> int:
        """Rows."""
        lists = self.precisions, self.threads, self.depths, self.prompt_tokens, self.new_tokens
        return len(list(product(*lists)))

    def rows(self) -> Iterator[BenchRow]:
        """Measure, one after the other; the bandwidth before each session, since it changes with the machine's mood."""
        for precision, threads in product(self.precisions, self.threads):
            session = DecoderSession(self.bundle, precision, threads=threads)
            bandwidth = read_bandwidth(session.threads)
            for depth, prompt, new in product(self.depths, self.prompt_tokens, self.new_tokens):
                yield bench(
                    session,
                    prompt_tokens=prompt,
                    new_tokens=new,
                    depth=depth,
                    repeats=self.repeats,
                    weight_bytes=self.bundle.file_bytes(precision),
                    bandwidth=bandwidth,
                )


HEADER = (
    "precision",
    "threads",
    "depth",
    "prompt",
    "prefill tokens/s",
    "new",
    "decode tokens/s",
    "Python",
    "GB/s read",
    "of floor",
)


def table(rows: Sequence[BenchRow], *, markdown: bool = False) -> str:
    """The rows for a terminal, or as a Markdown table."""
    cells = [HEADER, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER))]
    lines = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in cells]
    if not markdown:
        return "\n".join("  ".join(line) for line in lines)
    lines.insert(1, ["-" * (width - 1) + ":" for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: BenchRow) -> tuple[str, ...]:
    return (
        row.precision,
        str(row.threads),
        str(row.depth),
        str(row.prompt_tokens),
        f"{row.prefill_tokens_per_second:,.1f} ± {row.prefill_tokens_per_second_std:.1f}",
        str(row.new_tokens),
        f"{row.decode_tokens_per_second:,.1f} ± {row.decode_tokens_per_second_std:.1f}",
        f"{row.python_share:.1%}",
        "" if row.bandwidth_bytes_per_second is None else f"{row.bandwidth_bytes_per_second / 1e9:.1f}",
        "" if row.bandwidth_share is None else f"{row.bandwidth_share:.0%}",
    )
