"""How far a long piece of work is, on stderr: a bar on a terminal, and in a log a line every few seconds.

Every package uses it, and none uses tqdm itself. tqdm comes with huggingface_hub, which tokenizers needs; it is loaded
when a bar is made.
"""

from __future__ import annotations

import functools
import io
import sys
import time
from collections.abc import Iterable
from typing import Any

SECONDS_BETWEEN_LINES = 5.0
LINE_FORMAT = "{desc}: {n_fmt} of {total_fmt} {unit} in {elapsed}, {remaining} left{postfix}"
LINE_FORMAT_WITHOUT_TOTAL = "{desc}: {n_fmt} {unit} in {elapsed}{postfix}"


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    description: str,
    unit: str,
    total: int | None = None,
    initial: int = 0,
    show: bool = True,
) -> Any:
    """A tqdm bar: iterate over it, or call its `update`, in a `with` block. Nothing remains of it on a terminal.

    Args:
        items: what to iterate over; None where `update` is called.
        description: what is being done.
        unit: what is counted, in the plural.
        total: how many there will be; None for the length of `items`.
        initial: how many were done before, by work that goes on.
        show: False for a bar that shows nothing.
    """
    is_hidden = not show or sys.stderr is None
    return bar_class()(items, desc=description, unit=unit, total=total, initial=initial, disable=is_hidden)


def write_line(line: str) -> None:
    """Print a line on stderr, above the bars of a terminal."""
    if sys.stderr is not None:
        bar_class().write(line, file=sys.stderr)


@functools.cache
def bar_class() -> Any:
    """The subclass of tqdm that `progress_bar` makes, for libraries that want a class."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    class ProgressBar(tqdm):  # type: ignore[misc]
        """A bar on a terminal. Elsewhere lines: one every few seconds, of whichever bar moves then."""

        last_line = 0.0

        def __init__(self, *args: Any, **options: Any) -> None:
            self.is_log = not (sys.stderr is not None and sys.stderr.isatty())
            if self.is_log:  # tqdm itself then writes into the void, and `display` writes the lines
                options |= {"file": io.StringIO(), "miniters": 1, "mininterval": 0.1}
            self.started = time.monotonic()
            super().__init__(*args, **({"leave": False} | options))

        def display(self, msg: str | None = None, pos: int | None = None) -> Any:
            if not self.is_log:
                return super().display(msg, pos)
            now = time.monotonic()
            if msg is None and now - max(self.started, ProgressBar.last_line) >= SECONDS_BETWEEN_LINES:
                ProgressBar.last_line = now
                values = self.format_dict | {"bar_format": LINE_FORMAT if self.total else LINE_FORMAT_WITHOUT_TOTAL}
                sys.stderr.write(f"{self.format_meter(**values).strip()}\n")
                sys.stderr.flush()
            return True

    return ProgressBar
