"""What happened at each step, as JSON lines in a file.

A line has `step`, `loss`, `lr`, `grad_norm`, `tokens` (that the step learnt from) and `tokens_per_second`; after an
evaluation also `held_out_loss` and, for a corpus whose entropy is known, `true_loss` and `entropy_ratio`, the held-out
loss over the true one. Losses are in nats a token. Steps count from 1: step n is what n updates have led to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from model.files import write_text
from train.errors import RunError

Metrics = Mapping[str, float]


class MetricsWriter:
    """Appends to a metrics file, each line flushed. Lines after `resumed_at`, which the run will redo, are dropped."""

    def __init__(self, path: Path, resumed_at: int = 0) -> None:
        kept = [line for line in read_metrics(path) if line["step"] <= resumed_at] if path.exists() else []
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, metrics: Metrics) -> None:
        """Append one step's line."""
        self._file.write(json.dumps(metrics) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[Metrics]:
    """All lines of a metrics file, but for a last one that was cut off. Raises RunError where there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    metrics = []
    for number, line in enumerate(lines, start=1):
        try:
            metrics.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise RunError(f"{path}, line {number} is not JSON") from None
    return metrics
