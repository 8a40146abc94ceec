"""One thread that runs the texts of all requests, and the event loop that hands their pieces on.

The thread takes turns on the model's own scheduler, so that other threads, such as a page's, generate beside it in the
same passes. What comes in a step reaches the event loop in one call. An order to cancel is followed before the next
step: a client that vanishes frees its slot within one.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from app.api.errors import overloaded
from runtime.engine.scheduler import Scheduler
from runtime.engine.sequence import Sequence
from runtime.engine.shared_scheduler import IDLE_SECONDS
from runtime.generation.text_delta import TextDelta
from runtime.generation.text_request import TextRequest
from runtime.language_model import LanguageModel

# Tokenizing and compiling a grammar: beside the event loop, but not so many at once that decoding waits for a core.
PREPARING_THREADS = 2
# What one more text counts in the mean time of a text, from which Retry-After is estimated.
NEWEST = 0.1
LONGEST_RETRY_SECONDS = 60

Result = TypeVar("Result")


class Observer(Protocol):
    """Told what happens, on the engine's thread."""

    def first_token(self, seconds: float) -> None:
        """A text's first token came, this long after it was accepted."""

    def next_token(self, seconds: float) -> None:
        """A text's next token came, this long after the one before."""


class ServedText:
    """One text of an answer.

    Attributes:
        index: among those of its answer.
        request: what to generate; set before it is submitted.
        accepted_seconds, first_seconds, last_seconds: by `time.perf_counter`; None until they have come.
        new_tokens: so far.
        has_ended: its last piece has come, or it was given up.
    """

    def __init__(self, index: int, answer: Answer, observer: Observer) -> None:
        self.index = index
        self.request: TextRequest | None = None
        self.accepted_seconds = time.perf_counter()
        self.first_seconds: float | None = None
        self.last_seconds: float | None = None
        self.new_tokens = 0
        self.has_ended = False
        self.sequence: Sequence | None = None
        self.answer = answer
        self.came: deque[TextDelta] = deque()
        self._observer = observer

    @property
    def begun_seconds(self) -> float | None:
        """When its prompt began to run."""
        return None if self.sequence is None else self.sequence.begun_seconds

    def take(self, delta: TextDelta) -> None:
        """A piece came, on whichever thread ran the step."""
        now = time.perf_counter()
        if self.last_seconds is None:
            self.first_seconds = now
            self._observer.first_token(now - self.accepted_seconds)
        else:
            self._observer.next_token(now - self.last_seconds)
        self.last_seconds = now
        self.new_tokens += 1
        self.came.append(delta)


class Answer:
    """The texts of one request. Close it, whatever happens: what has not ended then is cancelled."""

    def __init__(self, engine: Engine, count: int, observer: Observer) -> None:
        self.texts = [ServedText(index, self, observer) for index in range(count)]
        self._engine = engine
        self._arrived: list[tuple[ServedText, TextDelta]] = []
        self._error: Exception | None = None
        self._news = asyncio.Event()

    @property
    def is_whole(self) -> bool:
        """Whether all texts have ended, none in an error, and every piece has been given out."""
        return self._error is None and not self._arrived and all(text.has_ended for text in self.texts)

    async def pieces(self) -> list[tuple[ServedText, TextDelta]]:
        """What has come since the last call, at least one piece; empty once all texts have ended.

        Raises:
            Exception: what a text failed with, after the pieces that came before.
        """
        while not self._arrived:
            if self._error is not None:
                raise self._error
            if self.is_whole:
                return []
            self._news.clear()
            await self._news.wait()
        arrived, self._arrived = self._arrived, []
        return arrived

    def close(self) -> None:
        """Give up what has not ended."""
        for text in self.texts:
            if not text.has_ended:
                text.has_ended = True
                self._engine.give_up(text)

    def receive(self, text: ServedText, deltas: list[TextDelta], error: Exception | None) -> None:
        """Pieces of a text, on the event loop."""
        if text.has_ended:  # it was given up
            return
        self._arrived += [(text, delta) for delta in deltas]
        self._error = self._error or error
        if error is not None or (deltas and deltas[-1].finish_reason is not None):
            text.has_ended = True
            self._engine.ended(text)
        self._news.set()


class Engine:
    """Runs texts on a model.

    Args:
        model: with `max_running` slots.
        slots: texts that run at once.
        queue: texts that may wait beside them; more are refused.
        observer: of the tokens.
    """

    def __init__(self, model: LanguageModel, *, slots: int, queue: int, observer: Observer) -> None:
        self._model = model
        self._slots, self._queue = slots, queue
        self._observer = observer
        self._accepted = 0
        self._mean_seconds = 1.0
        self._orders: deque[tuple[ServedText, bool]] = deque()  # and whether to add it, or to cancel
        self._live: list[ServedText] = []
        self._wake = threading.Event()
        self._is_ending = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._preparing = ThreadPoolExecutor(PREPARING_THREADS, "prepare")
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def capacity(self) -> int:
        """Texts that may run and wait together."""
        return self._slots + self._queue

    @property
    def accepted(self) -> int:
        """Texts that are prepared, wait or run."""
        return self._accepted

    def start(self) -> None:
        """Begin, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Texts under way are left."""
        self._is_ending = True
        self._wake.set()
        self._thread.join()
        self._preparing.shutdown()

    def open(self, count: int) -> Answer:
        """Take places for the texts of a request. Raises ApiError 429 where there are none."""
        if self._accepted + count > self.capacity:
            raise overloaded(self._retry_after_seconds())
        self._accepted += count
        return Answer(self, count, self._observer)

    async def prepare(self, work: Callable[[], Result]) -> Result:
        """Run something that takes milliseconds beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._preparing, work)

    def submit(self, answer: Answer) -> None:
        """Put an answer's texts in line; their requests are set."""
        self._orders.extend((text, True) for text in answer.texts)
        self._wake.set()

    def give_up(self, text: ServedText) -> None:
        """Cancel a text before the next step."""
        self._accepted -= 1
        self._orders.append((text, False))
        self._wake.set()

    def ended(self, text: ServedText) -> None:
        """A text has come to its end."""
        self._accepted -= 1
        seconds = time.perf_counter() - (text.begun_seconds or text.accepted_seconds)
        self._mean_seconds += NEWEST * (seconds - self._mean_seconds)

    def _retry_after_seconds(self) -> int:
        """When a place should be free, if texts take as long as the last ones."""
        return min(LONGEST_RETRY_SECONDS, max(1, math.ceil(self._mean_seconds / self._slots)))

    def _run(self) -> None:
        while not self._is_ending:
            if not self._live and not self._orders:
                self._wake.wait()
                self._wake.clear()
            try:
                is_stuck = self._turn()
            except Exception as error:  # noqa: BLE001 - a fault of ours must not leave clients waiting
                is_stuck = False
                self._fail_all(error)
            if is_stuck:
                time.sleep(IDLE_SECONDS)

    def _turn(self) -> bool:
        """Follow orders, take a step, hand on what came. Returns whether there was nothing to do."""
        with self._model.scheduler.turn() as scheduler:
            failed = self._follow_orders(scheduler)
            tokens = scheduler.step() if self._live else []
            news = failed + self._collect()
        if news and self._loop is not None:
            self._loop.call_soon_threadsafe(_deliver, news)
        return not tokens and all(text.begun_seconds is None for text in self._live)

    def _follow_orders(self, scheduler: Scheduler) -> list[_News]:
        failed: list[_News] = []
        while self._orders:
            text, is_new = self._orders.popleft()
            if not is_new:
                if text.sequence is not None:
                    scheduler.cancel(text.sequence)
                if text in self._live:
                    self._live.remove(text)
            elif not text.has_ended and text.request is not None:
                try:
                    text.sequence = scheduler.add(text.request.request)
                    self._live.append(text)
                except Exception as error:  # noqa: BLE001 - it is the client's to hear
                    failed.append((text, [], error))
        return failed

    def _collect(self) -> list[_News]:
        """The pieces that came, of steps that other threads ran too, and the ends without another token."""
        news: list[_News] = []
        for text in self._live.copy():
            deltas = [text.came.popleft() for _ in range(len(text.came))]
            sequence, error = text.sequence, None
            if sequence is not None and sequence.finish_reason is not None:
                self._live.remove(text)
                error = sequence.error
                has_end = bool(deltas) and deltas[-1].finish_reason is not None
                if error is None and not has_end and text.request is not None:
                    deltas.append(text.request.end(sequence.finish_reason))
            if deltas or error is not None:
                news.append((text, deltas, error))
        return news

    def _fail_all(self, error: Exception) -> None:
        news: list[_News] = [(text, [], error) for text in self._live]
        with self._model.scheduler.turn() as scheduler:
            for text in self._live:
                if text.sequence is not None:
                    scheduler.cancel(text.sequence)
        self._live.clear()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(_deliver, news)


_News = tuple[ServedText, list[TextDelta], Exception | None]


def _deliver(news: list[_News]) -> None:
    for text, deltas, error in news:
        text.answer.receive(text, deltas, error)
