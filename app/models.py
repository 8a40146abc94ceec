"""The models behind the page: one bundle, each of its precisions opened when first asked for, with its own engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from app.api.engine import Engine
from runtime.bundle import Bundle
from runtime.engine.memory import available_bytes
from runtime.engine.session import DecoderSession
from runtime.errors import OptionError
from runtime.language_model import LanguageModel
from runtime.text.tokenizer import Tokenizer

State = Literal["closed", "loading", "ready", "failed"]
# Opening takes a precision's file, and about this much for what runs beside it.
SPARE_BYTES = 256 * 2**20


@dataclass
class OpenModel:
    """A precision that can compute.

    Attributes:
        model: with the engine's number of slots.
        engine: runs its texts; started.
        used_seconds: by `time.monotonic`, when it was last asked for.
    """

    model: LanguageModel
    engine: Engine
    used_seconds: float = field(default_factory=time.monotonic)


class Models:
    """A bundle's precisions over one tokenizer. All methods run on the event loop.

    Args:
        bundle: what they come from.
        default: the precision that is never closed.
        slots: texts that each runs at once.
        make_engine: of a model that was opened; not started yet.
        threads: of a matrix product; None for the physical cores.

    Attributes:
        tokenizer: of all precisions; None until one has been opened.
        threads: of a matrix product; None for the physical cores.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        default: str,
        slots: int,
        make_engine: Callable[[LanguageModel], Engine],
        threads: int | None = None,
    ) -> None:
        self.bundle = bundle
        self.default = default
        self.tokenizer: Tokenizer | None = None
        self._slots = slots
        self._make_engine = make_engine
        self.threads = threads
        self._tasks: dict[str, asyncio.Task[OpenModel]] = {}

    def state(self, precision: str) -> State:
        """Whether a precision can compute now."""
        task = self._tasks.get(precision)
        if task is None:
            return "closed"
        if not task.done():
            return "loading"
        return "failed" if task.cancelled() or task.exception() is not None else "ready"

    def failure(self, precision: str) -> BaseException | None:
        """What opening a precision failed with."""
        return self._tasks[precision].exception() if self.state(precision) == "failed" else None

    def ready(self) -> dict[str, OpenModel]:
        """The precisions that can compute."""
        return {name: task.result() for name, task in self._tasks.items() if self.state(name) == "ready"}

    async def get(self, precision: str) -> OpenModel:
        """A precision, opened if it is not, or if that failed before.

        Raises:
            OptionError: the bundle has none of that name.
            Exception: it cannot be opened.
        """
        if precision not in self.bundle.precisions:
            raise OptionError(f"there is no precision {precision!r} here; choose {', '.join(self.bundle.precisions)}")
        if self.state(precision) in ("closed", "failed"):
            self._tasks[precision] = asyncio.create_task(self._open(precision))
        # The visitor who asked may leave; others wait for it as well.
        found = await asyncio.shield(self._tasks[precision])
        found.used_seconds = time.monotonic()
        return found

    async def close(self) -> None:
        """End every engine, after what is being opened."""
        for task in self._tasks.values():
            if not task.done():
                await asyncio.wait([task])
        for found in self.ready().values():
            await asyncio.to_thread(found.engine.stop)
        self._tasks.clear()

    async def _open(self, precision: str) -> OpenModel:
        await self._make_room(self.bundle.file_bytes(precision))
        model = await asyncio.to_thread(self._load, precision)
        engine = self._make_engine(model)
        engine.start()
        return OpenModel(model, engine)

    def _load(self, precision: str) -> LanguageModel:
        if self.tokenizer is None:
            self.tokenizer = Tokenizer(self.bundle)
        session = DecoderSession(self.bundle, precision, threads=self.threads)
        return LanguageModel(self.bundle, session, self.tokenizer, cached_prompts=self._slots, max_running=self._slots)

    async def _make_room(self, file_bytes: int) -> None:
        """Close the precisions that have been idle longest, as far as memory asks for it."""
        idle = sorted(
            (found.used_seconds, name)
            for name, found in self.ready().items()
            if name != self.default and not found.engine.accepted
        )
        for _, name in idle:
            available = available_bytes()
            if available is None or available > file_bytes + SPARE_BYTES:
                return
            found = self._tasks.pop(name).result()
            await asyncio.to_thread(found.engine.stop)
