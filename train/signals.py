"""SIGINT (Ctrl-C) and SIGTERM (a scheduler, or torchrun) are noted, so that the loop can save before it ends."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):  # noqa: N818 - no error: the run goes on later
    """A signal arrived in the middle of a step or of an evaluation. Weights and moments are those of the last step."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def no_signal() -> int:
    """What a run that does not note signals has received."""
    return 0


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
