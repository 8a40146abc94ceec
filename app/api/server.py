"""The HTTP server: it ends in order."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Protocol

import uvicorn
from starlette.types import Receive, Scope, Send

from app.api.guard import Traffic

# Longer than a proxy keeps a connection (nginx: 60 s), so that it is the proxy that lets go of an idle one.
KEEP_ALIVE_SECONDS = 75
# After the time for draining, for answers to be cut off.
CUT_SECONDS = 1


class Application(Protocol):
    """An ASGI application that knows its requests."""

    traffic: Traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""


class DrainingServer(uvicorn.Server):
    """Serves until SIGTERM or Ctrl-C, then answers 503 until the requests under way have ended; then it ends, too.

    A second signal ends it at once.

    Args:
        api: the application.
        host, port: where to listen.
        drain_seconds: the most that it waits for requests under way; their connections are cut off then.
        announce: called once it listens.
    """

    def __init__(
        self,
        api: Application,
        *,
        host: str,
        port: int,
        drain_seconds: float,
        announce: Callable[[], object] = lambda: None,
    ) -> None:
        config = uvicorn.Config(
            api,
            host=host,
            port=port,
            log_level="critical",  # faults are logged by the guard
            access_log=False,
            ws="none",
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=CUT_SECONDS,
        )
        super().__init__(config)
        self._traffic = api.traffic
        self._drain_seconds = drain_seconds
        self._ends_seconds = 0.0
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        if self.started:
            self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler
        """A signal came."""
        if self._traffic.is_draining:
            self.should_exit = self.force_exit = True
            return
        self._traffic.is_draining = True
        self._ends_seconds = time.monotonic() + self._drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        if self._traffic.is_draining and (not self._traffic.active or time.monotonic() > self._ends_seconds):
            self.should_exit = True
        return await super().on_tick(counter)
