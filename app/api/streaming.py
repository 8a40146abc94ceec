"""Server-sent events, for as long as somebody listens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

# A client that takes nothing for so long is gone, whatever its connection says.
SEND_SECONDS = 30.0
ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
DONE = b"data: [DONE]\n\n"

Result = TypeVar("Result")


class ClientGoneError(Exception):
    """Nobody waits for the answer any longer."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Run something until it is done, or the client's connection ends.

    Args:
        receive: of the request, whose body has been read.
        work: is cancelled once the client is gone.

    Raises:
        ClientGoneError: the client has vanished.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGoneError
    finally:
        for task in (working, leaving):
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


class EventStream(Response):
    """Sends values as events as they come, those that came together in one piece, and `[DONE]` at the end.

    Args:
        events: lists of JSON values.
        on_end: called once no more is sent, whether all was, the client is gone, or sending failed.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[list[dict[str, Any]]], on_end: Callable[[], object]) -> None:
        # Proxies must not hold pieces back until there are many.
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send them."""
        try:
            with suppress(ClientGoneError, TimeoutError):
                await unless_gone(receive, self._send(send))
        finally:
            self._on_end()
            await self._events.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for events in self._events:
            async with asyncio.timeout(SEND_SECONDS):
                await send({"type": "http.response.body", "body": b"".join(map(_event, events)), "more_body": True})
        await send({"type": "http.response.body", "body": DONE, "more_body": False})


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + ENCODE(value).encode() + b"\n\n"


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
