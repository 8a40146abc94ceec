"""What is refused before anything is read: the first thing that sees a request.

Keys, hosts, sizes and kinds are told from the head of a request; of a body no more is read than may come, and a client
that sends it too slowly is let go. While the server drains, nothing new gets in.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import CLOSE, ApiError, draining, log_fault

# These answer anybody, also while the server drains.
OPEN_PATHS = ("/health",)
# What arrives of a refused body is thrown away for this long: a client that still sends could not read the answer.
LINGER_SECONDS = 2.0
UNKNOWN_PATH = "other"

App = TypeVar("App", bound=ASGIApp)


@dataclass(frozen=True)
class Limits:
    """What requests may be like.

    Attributes:
        api_key: that clients must have; None lets everybody in.
        hosts: names that a Host header may have, without the port; None for any. A page of another site that resolves
            its own name to this machine is told apart by it.
        origins: of pages of other sites whose scripts may call, such as "https://chat.example".
        body_bytes: the largest body.
        body_seconds: in which it must have come.
    """

    api_key: str | None = None
    hosts: Collection[str] | None = None
    origins: Collection[str] = ()
    body_bytes: int = 2**20
    body_seconds: float = 30.0


@dataclass
class Traffic:
    """The requests of a server.

    Attributes:
        active: under way.
        is_draining: whether new ones are refused.
    """

    active: int = 0
    is_draining: bool = False


class Counts(Protocol):
    """Counts answers."""

    def answered(self, path: str, status: int) -> None:
        """A request has been answered."""


class Guard(Generic[App]):
    """ASGI middleware.

    Args:
        app: behind it.
        limits: of requests.
        traffic: told of requests, and whether they are taken.
        metrics: count the answers.
        paths: that we have; others are counted as one.
    """

    def __init__(self, app: App, limits: Limits, traffic: Traffic, metrics: Counts, paths: Collection[str]) -> None:
        self.app = app
        self.traffic = traffic
        self._limits = limits
        self._metrics = metrics
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # What a page keeps open must not hold up the end.
        is_ours = scope["path"] in self._paths
        self.traffic.active += is_ours
        try:
            await self._handle(scope, receive, self._counted(scope["path"], send))
        except Exception as error:  # noqa: BLE001 - the HTTP server would log what it says, which may quote a prompt
            log_fault(error)
        finally:
            self.traffic.active -= is_ours

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._check(scope, headers)
            body = await self._body(headers, receive)
        except ApiError as error:
            await _refuse(error, headers, receive, send)
            return
        if body is None:  # it vanished before its request was whole
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        # What the application could not handle, it has answered and logged already, without the prompt.
        with suppress(Exception):
            await self.app(scope, replay, send)

    def _check(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Raise ApiError for what the head of a request tells."""
        limits, path = self._limits, scope["path"]
        host = headers.get("host", "")
        if limits.hosts is not None and _name(host) not in limits.hosts:
            raise ApiError(421, "this server does not answer to that Host; see --allow-host", headers=CLOSE)
        if path in OPEN_PATHS:
            return
        if self.traffic.is_draining:
            raise draining()
        origin = headers.get("origin")
        if origin is not None and origin not in limits.origins and urlsplit(origin).netloc != host:
            raise ApiError(403, "pages of that origin may not call this server; see --allow-origin", headers=CLOSE)
        if limits.api_key is not None and not _has_key(headers.get("authorization", ""), limits.api_key):
            raise ApiError(
                401,
                "the API key is missing or wrong: send the header authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer", **CLOSE},
            )
        if _has_body(headers):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise ApiError(415, "send JSON, with the header content-type: application/json", headers=CLOSE)
            if int(headers.get("content-length", 0)) > limits.body_bytes:
                raise self._too_large()

    async def _body(self, headers: Mapping[str, str], receive: Receive) -> bytes | None:
        """The body; None where the client vanished while it came."""
        if not _has_body(headers):
            return b""
        parts: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    more = message.get("more_body", False)
                    if size > self._limits.body_bytes:
                        raise self._too_large()
        except TimeoutError:
            seconds = self._limits.body_seconds
            raise ApiError(408, f"the body did not come within {seconds:g} s", headers=CLOSE) from None
        return b"".join(parts)

    def _too_large(self) -> ApiError:
        most = self._limits.body_bytes
        return ApiError(413, f"the body may have {most:,} bytes at most", code="request_too_large", headers=CLOSE)

    def _counted(self, path: str, send: Send) -> Send:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.answered(path if path in self._paths else UNKNOWN_PATH, message["status"])
            await send(message)

        return counted


async def _refuse(error: ApiError, headers: Mapping[str, str], receive: Receive, send: Send) -> None:
    response = error.response()
    await send({"type": "http.response.start", "status": error.status, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    if _has_body(headers):
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                    pass
        except TimeoutError:
            pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _has_body(headers: Mapping[str, str]) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _has_key(authorization: str, key: str) -> bool:
    scheme, _, given = authorization.partition(" ")
    # Compared whole, so that the time tells nothing of where they differ.
    return hmac.compare_digest(given.strip().encode(), key.encode()) and scheme.lower() == "bearer"


def _name(host: str) -> str:
    """A Host header without its port."""
    return urlsplit(f"//{host}").hostname or ""
