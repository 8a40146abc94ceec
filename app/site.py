"""Everything that `app run` serves on one port: the page, OpenAI's API, Gradio's named endpoints.

The page is there at once. The model, the API over it and Gradio are loaded behind it; until they are there, a caller is
told to come again.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from contextlib import AsyncExitStack, suppress

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.application import Settings, build_api
from app.api.engine import Engine
from app.api.errors import SERVER_FAULT, ApiError
from app.api.guard import Guard, Traffic
from app.gradio_gate import is_gradios
from app.models import Models
from app.page import SECURITY_HEADERS, build_page, reason
from app.service import PageService
from app.share import Share
from app.wishes import PageLimits
from runtime.bundle import Bundle
from runtime.language_model import LanguageModel

LOG = logging.getLogger("app.site")
# A client that comes while Gradio is being imported waits for it.
GRADIO_SECONDS = 30.0


class Site:
    """The ASGI application of a bundle.

    Args:
        bundle: what is served.
        precision: of the API, and of the page until a visitor chooses another one.
        settings: of the API; the page shares its name, slots, queue and limits.
        page_limits: of one visitor of the page.
        threads: of a matrix product; None for the physical cores.
        source: the bundle as the command line named it.
        share: opened once Gradio is there.

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
        share: Share | None = None,
    ) -> None:
        self.traffic = Traffic()
        self._settings = settings
        self._share = share
        self._api: Guard[FastAPI] | None = None
        self._gradio: ASGIApp | None = None
        self._has_gradio = asyncio.Event()
        self.models = Models(
            bundle, default=precision, slots=settings.slots, make_engine=self._make_engine, threads=threads
        )
        self._service = PageService(settings.name, self.models, page_limits, source)
        self.page = build_page(self._service)
        # What is neither the page's nor Gradio's is the API's, which brings a guard of its own when it comes.
        self._page, self._gradios, self._waiting = (
            Guard(app, settings.limits, self.traffic, _Uncounted(), ())
            for app in (self.page, self._call_gradio, self._wait)
        )
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or begin and end with the server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            path: str = scope["path"]
            if path == "/" or path.startswith(("/page/", "/static/")):
                await self._page(scope, receive, _secured(send))
            elif is_gradios(path):
                await self._gradios(scope, receive, _secured(send))
            else:
                await (self._api or self._waiting)(scope, receive, send)

    async def _wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        """In place of the API, until the model is there, or since it could not be opened."""
        failure = self.models.failure(self.models.default)
        if failure is None:
            error = ApiError(
                503,
                "the model is being loaded: try again",
                kind=SERVER_FAULT,
                code="loading",
                headers={"retry-after": "1"},
            )
        else:
            error = ApiError(503, f"the model cannot be opened: {reason(failure)}", kind=SERVER_FAULT, code="no_model")
        await error.response()(scope, receive, send)

    async def _call_gradio(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(GRADIO_SECONDS):
                await self._has_gradio.wait()
        if self._gradio is None:
            error = ApiError(503, "these endpoints are not there", kind=SERVER_FAULT, headers={"retry-after": "10"})
            await error.response()(scope, receive, send)
        else:
            await self._gradio(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            self._task = asyncio.create_task(self._open(stack))
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._share is not None:
            self._share.close()
        await self._service.torch.close()
        await self.models.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _open(self, stack: AsyncExitStack) -> None:
        """The model first; what fails is told to who asks, and the rest is served."""
        try:
            await self.models.get(self.models.default)
        except Exception as error:  # noqa: BLE001 - the page tells it, and the log
            LOG.error("%s cannot be opened: %s", self.models.default, error)  # noqa: TRY400 - a line, no traceback
        try:
            endpoints = await asyncio.to_thread(importlib.import_module, "app.endpoints")
            self._gradio = await stack.enter_async_context(endpoints.gradio_endpoints(self._service))
        except Exception as error:  # noqa: BLE001 - as above
            LOG.error("Gradio's endpoints are not there: %s", error)  # noqa: TRY400
        self._has_gradio.set()
        if self._share is not None:
            self._share.open()

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
