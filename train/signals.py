"""SIGINT (Ctrl-C) and SIGTERM (a scheduler, or torchrun) are noted, so that the loop can finish its step and save."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def noting_signals() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the signal received, or 0. A second signal raises KeyboardInterrupt."""
    received = 0

    def note(number: int, _frame: FrameType | None) -> None:
        nonlocal received
        if received:
            raise KeyboardInterrupt
        received = number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
