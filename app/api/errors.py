"""What a client is told when something is wrong, in OpenAI's form: `{"error": {message, type, param, code}}`."""

from __future__ import annotations

import difflib
import logging
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse

from runtime.errors import (
    ChatTemplateError,
    ConstraintError,
    ContextLengthError,
    MissingDependencyError,
    OptionError,
    PromptError,
)

LOG = logging.getLogger("app.api")
INVALID, SERVER_FAULT, BUSY = "invalid_request_error", "server_error", "rate_limit_error"
CLOSE = {"connection": "close"}
MOST_REASONS = 3
MISSPELT = 0.75  # of difflib's ratio, from which on one name is taken for another


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: for the client; nothing of a prompt in it.
        kind: OpenAI's `type`.
        param: the field of the request that is wrong.
        code: OpenAI's short name of the fault.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(_sendable(message))
        self.status = status
        self.kind = kind
        self.param = None if param is None else _sendable(param)
        self.code = code
        self.headers = dict(headers or {})

    def content(self) -> dict[str, Any]:
        """The body of the answer."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.content(), self.status, self.headers)


def overloaded(retry_after_seconds: int) -> ApiError:
    """Too many wait already."""
    return ApiError(
        429,
        f"too many requests wait for this model: try again in {retry_after_seconds} s",
        kind=BUSY,
        code="rate_limit_exceeded",
        headers={"retry-after": str(retry_after_seconds)},
    )


def draining() -> ApiError:
    """The server is about to end."""
    return ApiError(
        503,
        "this server is shutting down: try again, or another one",
        kind=SERVER_FAULT,
        code="shutting_down",
        headers={"retry-after": "1", **CLOSE},
    )


def api_error(error: Exception) -> ApiError:
    """The answer for what the runtime, or our own fault, raised."""
    if isinstance(error, ApiError):
        return error
    message = " ".join(str(error).split())
    if isinstance(error, ContextLengthError):
        return ApiError(400, message, code="context_length_exceeded")
    if isinstance(error, (PromptError, OptionError, ChatTemplateError, ConstraintError)):
        return ApiError(400, message)
    if isinstance(error, MissingDependencyError):
        return ApiError(501, message, kind=SERVER_FAULT, code="not_installed")
    log_fault(error)
    return ApiError(500, "the server failed on this request; its log has the place", kind=SERVER_FAULT)


def validation_error(errors: Sequence[Mapping[str, Any]], known: Sequence[str]) -> ApiError:
    """The answer for a body that is not of the right form.

    Args:
        errors: pydantic's; what they quote of the body is left out.
        known: the names of the fields.
    """
    first = errors[0]
    place = [part for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first.get('ctx', {}).get('error', 'it does not parse')}")
    if first["type"] == "extra_forbidden":
        name = str(place[-1])
        close = difflib.get_close_matches(name, known, 1, MISSPELT) if len(place) == 1 else []
        hint = f": did you mean {close[0]}?" if close else ""
        return ApiError(400, f"unknown field {_short(name)}{hint}", param=_short(name), code="unknown_parameter")
    if not place:
        return ApiError(400, f"the body must be a JSON object: {_reason(first)}")
    param = str(place[0])
    reasons = list(dict.fromkeys(_reason(error) for error in errors if param in error["loc"]))
    return ApiError(400, f"{param}: {'; or '.join(reasons[:MOST_REASONS])}", param=param)


def log_fault(error: Exception) -> None:
    """Where it happened and what it is called. Its message could quote a prompt."""
    place = "".join(traceback.format_tb(error.__traceback__))
    LOG.error("%s in a request, at\n%s", type(error).__name__, place)


def _reason(error: Mapping[str, Any]) -> str:
    """pydantic's message, and where within the field it is."""
    inner = [str(part) for part in error["loc"][2:] if isinstance(part, int) or str(part).isidentifier()]
    message = str(error["msg"])
    message = message[0].lower() + message[1:]
    return f"{'.'.join(_short(part) for part in inner)}: {message}" if inner else message


def _sendable(text: str) -> str:
    """A text without halves of surrogate pairs, which a client may have put into a name of its own."""
    return text.encode("utf-8", "replace").decode()


def _short(name: str) -> str:
    return name if len(name) <= 40 else name[:37] + "..."
