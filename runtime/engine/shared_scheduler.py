"""One scheduler for many threads: whoever needs a token runs the step that brings everyone's.

There is no thread of its own, so nothing is computed that nobody waits for: a sequence whose last token has not been
taken is paused, and one that nobody iterates over costs nothing more.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.engine.fair_lock import FairLock
from runtime.engine.scheduler import Scheduler
from runtime.engine.sequence import Request, Sequence

# Where every running sequence is paused and another one waits for room, until somebody takes a token.
IDLE_SECONDS = 0.002


class SharedScheduler:
    """Lets threads take turns on a scheduler, in the order of asking.

    Args:
        scheduler: nobody else may call it.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._lock = FairLock()
        self._left: deque[Sequence] = deque()

    @contextmanager
    def turn(self) -> Iterator[Scheduler]:
        """The scheduler, while no other thread uses it. Its session may be used too."""
        with self._lock:
            self._drop_left()
            yield self._scheduler
        self._settle()

    def load(self) -> tuple[int, int, int]:
        """Sequences that run, the bytes of their caches, and those of the kept ones.

        Read without the lock: whoever asks must not wait for a step, and may be told of the one before.
        """
        scheduler = self._scheduler
        kept = scheduler.kept_bytes
        return scheduler.running, scheduler.cache_bytes - kept, kept

    def add(self, request: Request) -> Sequence:
        """`Scheduler.add`."""
        with self.turn() as scheduler:
            return scheduler.add(request)

    def advance(self, sequence: Sequence) -> None:
        """Run a step, unless another thread's has brought this sequence a token, or its end, meanwhile."""
        is_stuck = False
        with self._lock:
            if self._left:
                self._drop_left()
            if not sequence.is_paused and sequence.finish_reason is None:
                came = self._scheduler.step()
                is_stuck = not came and self._scheduler.is_waiting(sequence)
        if self._left:
            self._settle()
        if is_stuck:
            time.sleep(IDLE_SECONDS)

    def leave(self, sequence: Sequence) -> None:
        """End a sequence. Takes no lock that another may hold, for the garbage collector may call this at any time."""
        self._left.append(sequence)
        self._settle()

    def _settle(self) -> None:
        """Cancel what was left, unless a thread holds the lock, which then does so when it lets go."""
        while self._left and self._lock.try_enter():
            try:
                self._drop_left()
            finally:
                self._lock.__exit__()

    def _drop_left(self) -> None:
        while self._left:
            self._scheduler.cancel(self._left.popleft())
