"""A progress bar on stderr, in a few lines: tqdm is no dependency of the runtime."""

from __future__ import annotations

import sys
import time
from typing import Self

WIDTH = 30
SECONDS_BETWEEN = 0.1


class ProgressBar:
    """Shows how many of `total` are done and how long the rest will take; nothing where stderr is no terminal.

    >>> with ProgressBar("windows") as bar:                                               # doctest: +SKIP
    ...     bar.show(3, 10)
    """

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._is_shown = sys.stderr is not None and sys.stderr.isatty()
        self._started = time.monotonic()
        self._last = 0.0

    def show(self, done: int, total: int) -> None:
        """Draw it, unless it was drawn a moment ago."""
        now = time.monotonic()
        if not self._is_shown or (now - self._last < SECONDS_BETWEEN and done < total):
            return
        self._last = now
        filled = WIDTH * done // max(1, total)
        left = (now - self._started) * (total - done) / done if done else 0.0
        bar = "#" * filled + "." * (WIDTH - filled)
        sys.stderr.write(f"\r[{bar}] {done:,} of {total:,} {self._unit}, {left:,.0f} s left ")
        sys.stderr.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_shown and self._last:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
