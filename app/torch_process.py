"""The PyTorch model in a process of its own, for texts beside those of the exported ones.

It is started when a visitor asks for it and ended when nobody has for a while; the page's own process never loads
torch.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import suppress
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from app.api.errors import SERVER_FAULT, ApiError, overloaded
from runtime.bundle import Bundle
from runtime.engine.memory import available_bytes
from runtime.engine.threads import default_threads
from runtime.errors import MissingDependencyError, OptionError

WORKER = "export.torch_worker"
REPOSITORY = Path(__file__).resolve().parents[1]
# Its weights leave memory after this long without a text.
IDLE_SECONDS = 120.0
# Texts that run or wait; more are refused.
MOST_WAITING, RETRY_SECONDS = 8, 20
# Its threads must not spin while they wait: beside onnxruntime's on the same cores that costs nine tenths of its speed.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
# Beside its weights in 32 bits, for torch itself.
SPARE_BYTES = 400 * 2**20

Message = dict[str, Any]


class TorchProcess:
    """Texts of the checkpoint that a bundle was exported from, one at a time, first come first served.

    Args:
        bundle: its manifest names the checkpoint.
        threads: of a matrix product; None for the physical cores.
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        self._bundle = bundle
        self._threads = threads
        self._process: Process | None = None
        self._line: list[object] = []
        self._moved = asyncio.Condition()
        self._idle: asyncio.Task[None] | None = None

    @cached_property
    def missing(self) -> str | None:
        """Why there is no PyTorch here; None where there is. Nothing is imported."""
        if self._checkpoint is None:
            return "the checkpoint that the bundle was exported from is not on this machine"
        if any(find_spec(name) is None for name in ("torch", "safetensors", "export", "model")):
            return "torch is not installed here"
        return None

    @property
    def weight_bytes(self) -> int:
        """Of its parameters, in 32 bits each."""
        return 4 * int(self._bundle.manifest.get("parameters", {}).get("total", 0))

    async def generate(self, prompt_ids: list[int], sampling: dict[str, Any]) -> AsyncGenerator[Message]:
        """Continue a prompt; closing the generator ends the work.

        Args:
            prompt_ids: at least one token.
            sampling: options that differ from the model's own.

        Yields:
            `{"queue": place}` while others are before it, `{"loading": ...}` where the process starts, then
            `{"start": ...}`, `{"token": [text, id]}` for each token, and `{"end": figures}`.

        Raises:
            MissingDependencyError: it cannot run here.
            OptionError: there is not enough memory for it.
            ApiError: too many wait, or it failed.
        """
        if self.missing is not None:
            raise MissingDependencyError(f"PyTorch cannot be compared with: {self.missing}")
        if len(self._line) >= MOST_WAITING:
            raise overloaded(RETRY_SECONDS)
        ticket, is_whole = object(), False
        self._line.append(ticket)
        try:
            told = -1
            while told:
                told = await self._next_place(ticket, told)
                if told:
                    yield {"queue": told}
            if self._process is None or self._process.returncode is not None:
                yield {"loading": "PyTorch"}
            process = await self._started()
            yield {"start": {}}
            await self._send(process, {"prompt_ids": prompt_ids, "sampling": sampling})
            while "token" in (message := await self._read(process)):
                yield message
            is_whole = True
            if "error" in message:
                raise OptionError(message["error"])
            yield message
        finally:
            if self._line[0] is ticket and not is_whole:
                await asyncio.shield(self.close())  # the one way to end a pass under way
            self._line.remove(ticket)
            await asyncio.shield(self._next())

    async def close(self) -> None:
        """End the process."""
        self._stay()
        await self._end()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            if process.stdin is not None:
                process.stdin.close()
            await process.wait()

    @cached_property
    def _checkpoint(self) -> Path | None:
        source = self._bundle.manifest.get("source")
        if not isinstance(source, str) or not (Path(source) / "config.json").is_file():
            return None
        return Path(source).resolve()

    async def _next_place(self, ticket: object, told: int) -> int:
        """The place in line once it is another one; 0 for the first, whose turn it is."""
        async with self._moved:
            await self._moved.wait_for(lambda: self._line.index(ticket) != told)
        return self._line.index(ticket)

    async def _next(self) -> None:
        """Let the next one in line begin."""
        async with self._moved:
            self._moved.notify_all()
        if not self._line:
            self._idle = asyncio.create_task(self._end_when_idle())

    async def _end_when_idle(self) -> None:
        await asyncio.sleep(IDLE_SECONDS)
        await self._end()

    def _stay(self) -> None:
        """Do not end for being idle."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    async def _started(self) -> Process:
        self._stay()
        if self._process is not None and self._process.returncode is None:
            return self._process
        available = available_bytes()
        if available is not None and available < self.weight_bytes + SPARE_BYTES:
            raise OptionError("there is not enough memory here for PyTorch's weights beside those that are open")
        arguments = [self._bundle.folder.resolve(), self._checkpoint, self._threads or default_threads()]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            WORKER,
            *map(str, arguments),
            cwd=REPOSITORY,
            env=ENVIRONMENT | os.environ,
            stdin=PIPE,
            stdout=PIPE,
        )
        message = await self._read(self._process)
        if "error" in message:
            raise ApiError(500, f"PyTorch cannot be started: {message['error']}", kind=SERVER_FAULT)
        return self._process

    async def _send(self, process: Process, job: Message) -> None:
        with suppress(ConnectionError):  # what comes next says that it has ended
            if process.stdin is not None:
                process.stdin.write(json.dumps(job).encode() + b"\n")
                await process.stdin.drain()

    async def _read(self, process: Process) -> Message:
        line = b"" if process.stdout is None else await process.stdout.readline()
        if not line:
            raise ApiError(500, "PyTorch's process has ended: see the server's log", kind=SERVER_FAULT)
        message: Message = json.loads(line)
        return message
