"""The page's application: its document, its files, its state, and the endpoints of its tabs."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from app.api.errors import INVALID, ApiError, api_error, validation_error
from app.service import PageService, page_service
from app.tabs import chat, compare, model, write
from app.wishes import ChatWish, ContinueWish, MeasureWish, PromptWish, TokenizeWish, controls
from runtime.errors import ChatTemplateError, MissingDependencyError, SmolTextError
from runtime.precisions import PRECISIONS
from runtime.sampling.options import SamplingOptions
from runtime.text.chat_template import ChatTemplate

STATIC = Path(__file__).with_name("static")
FIELDS: dict[str, type[BaseModel]] = {
    "/page/continue": ContinueWish,
    "/page/chat": ChatWish,
    "/page/compare": PromptWish,
    "/page/reproduce": PromptWish,
    "/page/tokenize": TokenizeWish,
    "/page/measure": MeasureWish,
}
# Ours alone runs, nothing is fetched from elsewhere, and no other page may frame this one.
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def build_page(service: PageService) -> FastAPI:
    """The application of the page."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    for kind in (ApiError, SmolTextError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _answer_error)
    app.state.page = service
    app.state.document = _document(service)
    app.add_api_route("/", _index, methods=["GET", "HEAD"])
    app.add_api_route("/page/state", _state, methods=["GET"])
    for tab in (write, chat, compare, model):
        app.include_router(tab.router)
    app.mount("/static", StaticFiles(directory=STATIC))
    return app


def page_facts(service: PageService) -> dict[str, Any]:
    """What the document tells its scripts: the model, its precisions, the controls and their defaults."""
    models = service.models
    bundle = models.bundle
    context = bundle.shape.max_position_embeddings
    return {
        "name": service.name,
        "parameters": bundle.manifest.get("parameters", {}).get("total"),
        "context_tokens": context,
        "precision": models.default,
        "precisions": [
            {"name": name, "bytes": bundle.file_bytes(name), "summary": PRECISIONS[name].summary}
            for name in bundle.precisions
        ],
        "controls": controls(SamplingOptions(**bundle.generation_defaults), context, service.limits),
        "no_chat": _why_no_chat(service),
    }


def _why_no_chat(service: PageService) -> str | None:
    try:
        ChatTemplate(service.models.bundle)
    except (ChatTemplateError, MissingDependencyError) as error:
        return str(error).replace(f"{service.models.bundle.folder} ", "This model ")
    return None


def _document(service: PageService) -> str:
    facts = json.dumps(page_facts(service), ensure_ascii=False).replace("<", "\\u003c")
    template = (STATIC / "index.html").read_text(encoding="utf-8")
    return template.replace("{{name}}", escape(service.name)).replace("{{facts}}", facts)


async def _index(request: Request) -> Response:
    return HTMLResponse(request.app.state.document, headers={"cache-control": "no-cache"})


async def _state(request: Request) -> Response:
    """What the page asks for every few seconds: that it is answered says that the server is there."""
    models = page_service(request).models
    failure = models.failure(models.default)
    texts = sum(found.engine.accepted for found in models.ready().values())
    state = {
        "state": models.state(models.default),
        "error": None if failure is None else reason(failure),
        "texts": texts,
    }
    return JSONResponse(state, headers={"cache-control": "no-store"})


def reason(failure: BaseException) -> str:
    """Why a model cannot be opened, for people: what is told at a command line, too."""
    if isinstance(failure, (SmolTextError, MemoryError, OSError)):
        return " ".join(str(failure).split()) or type(failure).__name__
    return f"{type(failure).__name__}; the server's log tells more"


async def _answer_error(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        body = FIELDS.get(request.url.path)
        return validation_error(error.errors(), list(body.model_fields) if body else []).response()
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail), kind=INVALID, headers=error.headers).response()
    return api_error(error).response()
