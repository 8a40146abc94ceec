"""A lock that is given to whoever has waited longest.

`threading.Lock` goes to whoever asks first when it is free, which is nearly always the thread that has just released
it: another one would wait for a whole generation.
"""

from __future__ import annotations

import threading
from collections import deque


class FairLock:
    """A context manager, held by one thread at a time, in the order of asking. It cannot be entered twice."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._tickets: deque[threading.Lock] = deque()  # the holder's, then those of the waiting; free means: your turn

    def __enter__(self) -> None:
        ticket = threading.Lock()
        with self._changing:
            if self._tickets:
                ticket.acquire()
            self._tickets.append(ticket)
        try:
            ticket.acquire()
        except BaseException:  # Ctrl-C while waiting
            self._leave(ticket)
            raise

    def __exit__(self, *_: object) -> None:
        self._leave(self._tickets[0])

    def try_enter(self) -> bool:
        """Take the lock if that needs no waiting at all, as a finalizer must; `__exit__` gives it back."""
        if not self._changing.acquire(blocking=False):
            return False
        try:
            if self._tickets:
                return False
            ticket = threading.Lock()
            ticket.acquire()
            self._tickets.append(ticket)
            return True
        finally:
            self._changing.release()

    def _leave(self, ticket: threading.Lock) -> None:
        with self._changing:
            was_first = self._tickets[0] is ticket
            self._tickets.remove(ticket)
            if was_first and self._tickets:
                self._tickets[0].release()
