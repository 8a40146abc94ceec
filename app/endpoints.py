"""Named endpoints for `gradio_client`: the page's work by Gradio's protocol, on the same engine, queue and limits.

Gradio takes seconds to import, so the site builds this in the background. What is wrong with a call is one line for its
client and none for the log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import gradio as gr
from fastapi import FastAPI
from gradio.events import api
from pydantic import BaseModel, ValidationError

from app.api.errors import api_error, log_fault, validation_error
from app.generation import Events, MakePrompt, PageText
from app.gradio_gate import GradioGate, Listeners
from app.page import page_facts
from app.service import PageService
from app.tabs.chat import chat_prompt
from app.tabs.compare import whole_prompt
from app.tabs.model import measured, tokens_of
from app.tabs.write import text_prompt
from app.wishes import ChatWish, ContinueWish, MeasureWish, PromptWish, TokenizeWish, Wish

# How often a call looks whether its client is still there.
LOOK_SECONDS = 0.25
MOST_COLUMNS = 8
# Calls that Gradio has taken and not begun: each holds its arguments.
MOST_WAITING = 64
# How often an idle queue looks for calls; Gradio would look a thousand times a second.
IDLE_SECONDS = 0.02

Options = dict[str, Any]
Row = dict[str, Any]
Form = TypeVar("Form", bound=BaseModel)
Result = TypeVar("Result")
Function = TypeVar("Function", bound=Callable[..., Any])


@asynccontextmanager
async def gradio_endpoints(service: PageService) -> AsyncIterator[GradioGate]:
    """Gradio's application of the endpoints, behind its gate, on the running event loop."""
    listeners = Listeners()
    calls = Endpoints(service, listeners)
    with QuietBlocks(mode="server", title=service.name, analytics_enabled=False) as blocks:
        for function in (calls.continue_text, calls.chat, calls.compare, calls.tokenize, calls.measure, calls.models):
            # The engine's queue is the one that is bounded; nobody waits in Gradio's.
            api(function, api_name=function.__name__, concurrency_limit=None)
    blocks.queue(max_size=MOST_WAITING, api_open=False)
    _calm(blocks)
    host = FastAPI()
    gr.mount_gradio_app(host, blocks, path="/", footer_links=[], run_history=False, ssr_mode=False, mcp_server=False)

    def session_of(event: str) -> str:
        found = blocks._queue.event_ids_to_events.get(event)  # noqa: SLF001 - there is no other way to ask
        return event if found is None else found.session_hash

    async with host.router.lifespan_context(host):
        yield GradioGate(host, listeners, session_of)


class QuietBlocks(gr.Blocks):
    """Blocks that say what is wrong with a call to its client alone. Gradio would print where it found out."""

    async def process_api(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See gr.Blocks."""
        try:
            result: dict[str, Any] = await super().process_api(*args, **kwargs)
        except gr.Error:
            raise
        except Exception as error:  # noqa: BLE001 - wrong values are found out anywhere
            if not isinstance(error, (TypeError, ValueError)):
                log_fault(error)
            raise _error("the call does not fit the endpoint: see view_api(), or /gradio_api/info") from None
        return result


def _calm(blocks: gr.Blocks) -> None:
    """Spare what Gradio's queue does for its own page: nobody asks for statistics, which cost an import of pandas."""
    queue = blocks._queue  # noqa: SLF001 - it has no settings
    queue.compute_analytics_summary = lambda _: {}  # type: ignore[method-assign]
    queue.ANALYTICS_MAX_EVENTS = 1
    queue.sleep_when_free, queue.progress_update_sleep_when_free = IDLE_SECONDS, 10 * IDLE_SECONDS


def gives(kind: Any) -> Callable[[Function], Function]:
    """Say what an endpoint's client gets: of a generator Gradio would read its own type."""

    def say(function: Function) -> Function:
        function.__annotations__ = function.__annotations__ | {"return": kind}
        return function

    return say


class Endpoints:
    """What clients call. Their docstrings are the endpoints' descriptions.

    Args:
        service: of the page.
        listeners: to the calls.
    """

    def __init__(self, service: PageService, listeners: Listeners) -> None:
        self._service = service
        self._listeners = listeners

    @gives(str)
    async def continue_text(
        self,
        text: str,
        request: gr.Request,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        precision: str | None = None,
        options: Options | None = None,
    ) -> AsyncIterator[str]:
        """Stream what follows a text, each piece with all before it. `options` are more sampling options by name."""
        sampling = _sampling(options, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        wish = _form(ContinueWish, text=text, precision=precision, sampling=sampling)
        async for so_far in self._stream(request, wish, text_prompt(wish.text)):
            yield so_far

    @gives(str)
    async def chat(
        self,
        messages: list[dict[str, str]],
        request: gr.Request,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        precision: str | None = None,
        options: Options | None = None,
    ) -> AsyncIterator[str]:
        """Stream the answer to messages of `role` (system, user, assistant) and `content`; see continue_text."""
        sampling = _sampling(options, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        wish = _form(ChatWish, messages=messages, precision=precision, sampling=sampling)
        async for so_far in self._stream(request, wish, chat_prompt(wish.messages)):
            yield so_far

    @gives(list[Row])
    async def compare(
        self,
        text: str,
        precisions: list[str],
        request: gr.Request,
        max_new_tokens: int = 64,
        options: Options | None = None,
    ) -> list[Row]:
        """Continue a text in each precision, one after another with the same options: the texts and their speeds."""
        if not 1 <= len(precisions) <= MOST_COLUMNS:
            raise _error(f"precisions: give 1 to {MOST_COLUMNS} of {', '.join(self._service.models.bundle.precisions)}")
        # One seed for all, where none is asked for.
        sampling = {"seed": 0} | _sampling(options, max_new_tokens=max_new_tokens)
        rows: list[Row] = []
        for precision in precisions:
            wish = _form(PromptWish, text=text, precision=precision, sampling=sampling)
            row: Row = {"precision": precision, "text": ""}
            async for event in self._events(request, self._text(wish, whole_prompt(wish))):
                row["text"] += event.get("t", "")
                row |= event.get("end", {})
            rows.append(row)
        return rows

    @gives(Row)
    async def tokenize(self, text: str, as_question: bool = False) -> Row:
        """The tokens of a text: pieces of it with their ids, and whether each is a special token."""
        wish = _form(TokenizeWish, text=text, as_question=as_question)
        models = self._service.models
        found = await _said(models.get(models.default))
        work = found.engine.prepare(lambda: tokens_of(found.model, wish))
        result: Row = await _said(work)
        return result

    @gives(list[Row])
    async def measure(self, request: gr.Request, precision: str | None = None) -> AsyncIterator[list[Row]]:
        """Generate for 20 seconds, and stream a row of speeds for each text; others may compute beside it."""
        wish = _form(MeasureWish, precision=precision)
        rows: list[Row] = []
        async for event in self._events(request, measured(self._service, wish)):
            if "row" in event:
                rows.append(event["row"])
                yield rows

    @gives(Row)
    async def models(self) -> Row:
        """The model: its name, precisions, context, and the sampling options with their ranges and defaults."""
        return page_facts(self._service)

    def _text(self, wish: Wish, make_prompt: MakePrompt) -> Events:
        return PageText(self._service.models, wish, make_prompt, self._service.limits).events()

    async def _stream(self, request: gr.Request, wish: Wish, make_prompt: MakePrompt) -> AsyncIterator[str]:
        so_far = ""
        async for event in self._events(request, self._text(wish, make_prompt)):
            if event.get("t"):
                so_far += event["t"]
                yield so_far
        if not so_far:  # Gradio takes no stream for an answer that is empty
            yield so_far

    async def _events(self, request: gr.Request, events: Events) -> AsyncIterator[dict[str, Any]]:
        """Events one by one, for as long as the client listens. Raises gr.Error for one that is an error."""
        client = request.client.host if request.client else ""
        await _said(_enter(self._service, client))
        session, since = request.session_hash or "", time.monotonic()
        coming: asyncio.Task[list[dict[str, Any]]] | None = None
        try:
            while self._listeners.is_heard(session, since):
                coming = coming or asyncio.ensure_future(anext(events, []))
                done, _ = await asyncio.wait([coming], timeout=LOOK_SECONDS)
                if not done:
                    continue
                arrived, coming = coming.result(), None
                if not arrived:
                    return
                for event in arrived:
                    if "error" in event:
                        raise _error(event["error"])
                    yield event
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.wait([coming])
            await events.aclose()
            self._service.visitors.leave(client)


async def _enter(service: PageService, client: str) -> None:
    service.visitors.enter(client, service.limits.texts)


def _sampling(options: Options | None, **named: Any) -> Options:
    """Sampling options: those by name go before."""
    if options is not None and not isinstance(options, dict):
        raise _error("options: give sampling options by name, such as {'top_p': 0.9}")
    return (options or {}) | {name: value for name, value in named.items() if value is not None}


def _form(kind: type[Form], **fields: Any) -> Form:
    """What a client sent, checked as what the page sends is. Raises gr.Error that names the field."""
    try:
        return kind(**fields)
    except ValidationError as error:
        errors = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]
        raise _error(str(validation_error(errors, list(kind.model_fields)))) from None


async def _said(work: Coroutine[Any, Any, Result]) -> Result:
    """Its result. Raises gr.Error for what goes wrong."""
    try:
        return await work
    except Exception as error:  # noqa: BLE001 - told in words
        raise _error(str(api_error(error))) from None


def _error(message: str) -> gr.Error:
    return gr.Error(message, print_exception=False)
