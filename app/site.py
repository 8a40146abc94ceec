"""Everything that `app run` serves on one port: the page, OpenAI's API, Gradio's named endpoints.

The page is there at once. The model, the API over it and Gradio are loaded behind it; until they are there, a caller is
told to come again.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.application import Settings, build_api
from app.api.engine import Engine
from app.api.errors import SERVER_FAULT, ApiError, api_error
from app.api.guard import Guard, Traffic
from app.models import Models
from app.page import SECURITY_HEADERS, build_page
from app.service import PageService
from app.wishes import PageLimits
from runtime.bundle import Bundle
from runtime.language_model import LanguageModel

LOG = logging.getLogger("app.site")
GRADIO_PREFIX, GRADIO_CONFIG = "/gradio_api/", "/config"
# Of Gradio, what its clients need to call an endpoint. The rest serves files, takes uploads, or is for its own page.
GRADIO_PATHS = ("info", "call/", "queue/join", "queue/data", "cancel", "reset", "heartbeat/", "startup-events")


class Site:
    """The ASGI application of a bundle.

    Args:
        bundle: what is served.
        precision: of the API, and of the page until a visitor chooses another one.
        settings: of the API; the page shares its name, slots, queue and limits.
        page_limits: of one visitor of the page.
        threads: of a matrix product; None for the physical cores.
        source: the bundle as the command line named it.

    Attributes:
        traffic: the requests under way, and whether new ones are taken.
        models: what computes.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str,
        settings: Settings,
        page_limits: PageLimits,
        threads: int | None = None,
        source: str = "BUNDLE",
    ) -> None:
        self.traffic = Traffic()
        self._settings = settings
        self._api: Guard | None = None
        self._gradio: ASGIApp | None = None
        self.models = Models(
            bundle, default=precision, slots=settings.slots, make_engine=self._make_engine, threads=threads
        )
        service = PageService(settings.name, self.models, page_limits, source)
        self.page = build_page(service)
        self._guard = Guard(self.page, settings.limits, self.traffic, _Uncounted(), ())
        self._tasks: list[asyncio.Task[Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or begin and end with the server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            path: str = scope["path"]
            if path == "/" or path.startswith(("/page/", "/static/")):
                await self._guard(scope, receive, _secured(send))
            else:
                await self._api_or_wait(scope, receive, send)

    async def _api_or_wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._api is not None:
            await self._api(scope, receive, send)
            return
        failure = self.models.failure(self.models.default)
        if scope["path"] == "/health" or failure is None:
            error = ApiError(
                503, "the model is being loaded: try again", kind=SERVER_FAULT, headers={"retry-after": "1"}
            )
        else:
            error = api_error(failure if isinstance(failure, Exception) else RuntimeError())
        await error.response()(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._tasks = [asyncio.create_task(self._open_default())]
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self.page.state.page.torch.close()
        await self.models.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _open_default(self) -> None:
        try:
            await self.models.get(self.models.default)
        except Exception as error:  # noqa: BLE001 - the page tells it, and the log
            LOG.error("%s cannot be opened: %s", self.models.default, error)  # noqa: TRY400 - a line, no traceback

    def _make_engine(self, model: LanguageModel) -> Engine:
        if model.session.precision != self.models.default:
            return Engine(model, slots=self._settings.slots, queue=self._settings.queue, observer=_Unobserved())
        self._api = build_api(model, self._settings, self.traffic)
        engine: Engine = self._api.app.state.service.engine
        return engine


class _Uncounted:
    """In place of the API's metrics: requests of the page are not counted among its."""

    def answered(self, path: str, status: int) -> None:
        """A request has been answered."""


class _Unobserved:
    """An observer of an engine that nobody asks about."""

    def first_token(self, seconds: float) -> None:
        """See Observer."""

    def next_token(self, seconds: float) -> None:
        """See Observer."""


def _secured(send: Send) -> Send:
    headers = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *headers]
        await send(message)

    return with_headers
