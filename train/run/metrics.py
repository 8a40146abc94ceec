"""The metrics of each step: JSON lines in a file, which trackers receive too (train.run.trackers).

A line has
    step                    counted from 1
    loss, lr, grad_norm     the loss in nats per token; null where they were not finite
    skipped                 true in a step that made no update, because a gradient was not finite
    loss_scale, overflows   in float16: the factor on the loss, and how many steps the run has skipped
    tokens                  that have a label, over all devices
    seconds                 since the run began, in all sessions, evaluations and saves included
    tokens_per_second       of the step, without evaluation and saving
    mfu                     model FLOPs utilization (train.throughput), where the devices' peak is known
    memory_bytes            the peak so far, of rank 0
and after an evaluation
    held_out_loss           in nats per token
    bits_per_byte           the same in bits per byte of text
    true_loss               the entropy of the corpus in nats per token, where it is known: the lowest possible loss
    entropy_ratio           held_out_loss / true_loss
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from model.files import write_text
from train.errors import RunError
from train.run.trackers import Tracker

Metrics = Mapping[str, Any]


class MetricsWriter:
    """Appends to a metrics file and flushes each line. Drops the lines after `resumed_at`, which the run will repeat.

    Attributes:
        kept: the lines up to `resumed_at`.
    """

    def __init__(self, path: Path, resumed_at: int = 0, *, trackers: Sequence[Tracker] = ()) -> None:
        self.kept = [line for line in read_metrics(path) if line["step"] <= resumed_at] if path.exists() else []
        lines = [json.dumps(line) + "\n" for line in self.kept]
        write_text(path, "".join(lines))
        self._last_begins = sum(map(len, lines[:-1]))  # bytes, which are characters: JSON is ASCII here
        self._file = path.open("a", encoding="utf-8")
        self._trackers = trackers

    def replace_last_kept(self, metrics: Metrics) -> None:
        """Write the last line that was kept again; nothing may have been written since."""
        self._file.truncate(self._last_begins)
        self.write(metrics)

    def write(self, metrics: Metrics) -> None:
        """Append one step's line."""
        self._file.write(json.dumps(metrics) + "\n")
        self._file.flush()
        for tracker in self._trackers:
            tracker.log({name: float(value) for name, value in metrics.items() if value is not None}, metrics["step"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        for tracker in self._trackers:
            tracker.close()


def copy_metrics(source: Path, target: Path, *, until: int) -> None:
    """Copy a metrics file's lines up to a step."""
    lines = [line for line in read_metrics(source) if line["step"] <= until]
    write_text(target, "".join(json.dumps(line) + "\n" for line in lines))


def read_metrics(path: Path) -> list[Metrics]:
    """All lines of a metrics file, except a last line that was cut off. Raises RunError where it cannot be read."""
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
