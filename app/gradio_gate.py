"""What of Gradio is let through, and who listens to its answers.

Gradio has some fifty routes: they serve files, take uploads, pass requests on, and draw its own page. Its clients need
the few that are named here. A client posts a call and listens for the answer in another request, so a call whose client
has vanished, or never came, is told apart only by who listens.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.errors import ApiError

PREFIX, CONFIG = "/gradio_api/", "/config"
EXACT = {
    "GET": {CONFIG, *(PREFIX + path for path in ("info", "openapi.json", "startup-events", "queue/data"))},
    "POST": {PREFIX + path for path in ("queue/join", "cancel", "reset")},
}
CALL = PREFIX + "call/"
HEARTBEAT = PREFIX + "heartbeat/"
# After a call a client comes to listen within this, or it won't.
COMING_SECONDS = 5.0


class Listeners:
    """Which sessions are listened to."""

    def __init__(self) -> None:
        self._listening: Counter[str] = Counter()
        self._left_seconds: dict[str, float] = {}

    def is_heard(self, session: str, since_seconds: float) -> bool:
        """Whether somebody listens, or may still come: `since_seconds` is when the call began, by `time.monotonic`."""
        if self._listening[session]:
            return True
        del self._listening[session]
        has_left = self._left_seconds.get(session, 0.0) > since_seconds
        return not has_left and time.monotonic() < since_seconds + COMING_SECONDS

    def enter(self, session: str) -> None:
        """Somebody begins to listen."""
        self._listening[session] += 1

    def leave(self, session: str) -> None:
        """Somebody no longer listens."""
        self._listening[session] -= 1
        if not self._listening[session]:
            del self._listening[session]
            now = time.monotonic()
            self._left_seconds = {
                other: left for other, left in self._left_seconds.items() if left > now - 2 * COMING_SECONDS
            } | {session: now}


class GradioGate:
    """ASGI application in front of Gradio's.

    Args:
        app: Gradio's.
        listeners: told who listens.
        session_of: the session of a call, by the id of the event that it was answered with.
    """

    def __init__(self, app: ASGIApp, listeners: Listeners, session_of: Callable[[str], str]) -> None:
        self._app = app
        self._listeners = listeners
        self._session_of = session_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or say that there is no such path."""
        if not is_open(scope["method"], scope["path"]):
            await ApiError(404, "Not Found").response()(scope, receive, send)
            return
        session = self._session(scope)
        if session is None:
            await self._app(scope, receive, send)
            return
        self._listeners.enter(session)
        try:
            await self._app(scope, receive, send)
        finally:
            self._listeners.leave(session)

    def _session(self, scope: Scope) -> str | None:
        """The session that a request listens to."""
        path: str = scope["path"]
        query: bytes = scope["query_string"]
        if scope["method"] != "GET":
            return None
        if path == PREFIX + "queue/data":
            return parse_qs(query.decode("latin-1")).get("session_hash", [""])[0]
        if path.startswith(CALL):
            return self._session_of(path.rpartition("/")[2])
        return None


def is_gradios(path: str) -> bool:
    """Whether a path would be Gradio's."""
    return path == CONFIG or path.startswith(PREFIX)


def is_open(method: str, path: str) -> bool:
    """Whether clients may call a path of Gradio's."""
    if path in EXACT.get(method, ()):
        return True
    # A call by plain HTTP: POST call/NAME, then GET call/NAME/EVENT.
    if path.startswith(CALL):
        depth = path.removeprefix(CALL).count("/")
        return (method, depth) in (("POST", 0), ("GET", 1))
    return method == "GET" and path.startswith(HEARTBEAT)
