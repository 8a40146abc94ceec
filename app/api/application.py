"""The ASGI application: endpoints, errors in OpenAI's form, and the guard in front."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.api.engine import Engine
from app.api.errors import INVALID, ApiError, api_error, validation_error
from app.api.guard import Guard, Limits, Traffic
from app.api.metrics import Metrics
from app.api.replies import ErrorReply
from app.api.routes import Service, router
from app.api.schemas import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from runtime.errors import SmolTextError
from runtime.language_model import LanguageModel

DEFAULT_SLOTS, DEFAULT_QUEUE = 8, 64
OPENAPI_PATH = "/openapi.json"
FIELDS: dict[str, type[BaseModel]] = {
    "/v1/completions": CompletionBody,
    "/v1/chat/completions": ChatBody,
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
}


@dataclass(frozen=True)
class Settings:
    """How a model is served.

    Attributes:
        name: of the model, for clients.
        created: when it was made, in seconds since 1970.
        slots: texts that run at once.
        queue: texts that wait beside them at most.
        most_tokens: new ones of a text, at most; None for the context.
        limits: of requests.
    """

    name: str
    created: int = 0
    slots: int = DEFAULT_SLOTS
    queue: int = DEFAULT_QUEUE
    most_tokens: int | None = None
    limits: Limits = field(default_factory=Limits)


def build_api(model: LanguageModel, settings: Settings, traffic: Traffic | None = None) -> Guard[FastAPI]:
    """The application of a model, which was loaded with `max_running=settings.slots`. Its `app` takes more routes.

    Args:
        model: what answers.
        settings: how it is served.
        traffic: of a server that has more to serve; None for one of its own.
    """
    metrics = Metrics()
    engine = Engine(model, slots=settings.slots, queue=settings.queue, observer=metrics)
    metrics.watch(engine, model.scheduler)
    traffic = traffic or Traffic()
    most_tokens = settings.most_tokens or model.session.shape.max_position_embeddings

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.stop()

    # No /docs: its page would be fetched from elsewhere.
    app = FastAPI(
        title="SmolText",
        description="OpenAI's API over one model.",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=OPENAPI_PATH,
        lifespan=lifespan,
        # In place of FastAPI's own 422.
        responses={"default": {"model": ErrorReply, "description": "An error, in OpenAI's form"}},
    )
    app.include_router(router)
    for kind in (ApiError, SmolTextError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _answer_error)
    app.state.service = Service(settings.name, settings.created, model, engine, metrics, most_tokens, traffic)
    return Guard(app, settings.limits, traffic, metrics, [*app.openapi()["paths"], OPENAPI_PATH])


async def _answer_error(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        body = FIELDS.get(request.url.path)
        return validation_error(error.errors(), list(body.model_fields) if body else []).response()
    if isinstance(error, HTTPException):  # no such path, no such method, a body that does not parse
        return ApiError(error.status_code, str(error.detail), kind=INVALID, headers=error.headers).response()
    return api_error(error).response()
