"""The endpoints."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body, Path, Request
from starlette.responses import JSONResponse, Response

from app.api import replies
from app.api.engine import Answer, Engine, ServedText
from app.api.errors import ApiError, api_error, draining
from app.api.formats import ChatFormat, CompletionFormat, Envelope, Format, JsonObject, timings, usage
from app.api.guard import Traffic
from app.api.metrics import Metrics
from app.api.preparation import Prompt, completion_prompts, prepare_chat, prepare_completion
from app.api.schemas import ChatBody, CompletionBody, DetokenizeBody, SamplingFields, TokenizeBody
from app.api.streaming import ClientGoneError, EventStream, unless_gone
from runtime.generation.text_delta import Generation, TextDelta
from runtime.language_model import LanguageModel

STREAM = {"text/event-stream": {"schema": {"description": "with stream: true, a chunk an event, then [DONE]"}}}
CLIENT_GONE = 499  # nginx's word for it; nobody reads it
Pieces = list[tuple[ServedText, TextDelta]]

router = APIRouter()


@dataclass
class Service:
    """What the endpoints serve.

    Attributes:
        name: of the model, as clients call it.
        created: when it was made, in seconds since 1970.
        model: one precision of a bundle.
        engine: runs the texts.
        metrics: of all of it.
        most_tokens: new ones of a text, at most.
        traffic: whether requests are taken.
    """

    name: str
    created: int
    model: LanguageModel
    engine: Engine
    metrics: Metrics
    most_tokens: int
    traffic: Traffic

    def card(self) -> JsonObject:
        """The model, as /v1/models tells it."""
        session = self.model.session
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "smoltext",
            "max_model_len": session.shape.max_position_embeddings,
            "meta": {"precision": session.precision, "vocab_size": session.shape.vocab_size},
        }

    def check_model(self, name: str | None) -> None:
        """Raise ApiError 404 for any other model."""
        if name is not None and name != self.name:
            message = f"there is no such model here; this server has {self.name}"
            raise ApiError(404, message, param="model", code="model_not_found")


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


@router.get("/health", responses={200: {"model": replies.Health}})
async def health(request: Request) -> Response:
    """Whether requests are taken: 200, or 503 once the server drains."""
    if _service(request).traffic.is_draining:
        raise draining()
    return JSONResponse({"status": "ok"})


@router.get("/metrics", responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    found = _service(request).metrics
    return Response(found.exposition(), headers={"content-type": found.content_type})


@router.get("/v1/models", responses={200: {"model": replies.ModelList}})
async def models(request: Request) -> Response:
    """The served model."""
    return JSONResponse({"object": "list", "data": [_service(request).card()]})


@router.get("/v1/models/{name:path}", responses={200: {"model": replies.ModelCard}})
async def model_card(request: Request, name: Annotated[str, Path(min_length=1)]) -> Response:
    """The served model, by its name."""
    service = _service(request)
    service.check_model(name)
    return JSONResponse(service.card())


@router.post("/tokenize", responses={200: {"model": replies.TokenizeReply}})
async def tokenize(request: Request, body: Annotated[TokenizeBody, Body()]) -> Response:
    """The token ids of a text."""
    service = _service(request)
    encode = service.model.tokenizer.encode_prompt
    work = partial(encode, body.content, add_special_tokens=body.add_special) if body.content else list[int]
    return JSONResponse({"tokens": await service.engine.prepare(work)})


@router.post("/detokenize", responses={200: {"model": replies.DetokenizeReply}})
async def detokenize(request: Request, body: Annotated[DetokenizeBody, Body()]) -> Response:
    """The text of token ids, without special tokens."""
    service, tokens = _service(request), body.tokens
    if not tokens:
        return JSONResponse({"content": ""})
    service.model.session.check_token_ids(tokens)
    return JSONResponse({"content": await service.engine.prepare(lambda: service.model.tokenizer.decode(tokens))})


@router.post("/v1/completions", responses={200: {"model": replies.CompletionReply, "content": STREAM}})
async def completions(request: Request, body: Annotated[CompletionBody, Body()]) -> Response:
    """Continue a text."""
    service = _service(request)
    form = CompletionFormat(service.model.tokenizer, has_logprobs=body.logprobs is not None, echo=body.echo is True)
    count = len(completion_prompts(body)) * (body.n or 1)
    return await _answer(request, body, count, form, partial(prepare_completion, service.model, body))


@router.post("/v1/chat/completions", responses={200: {"model": replies.ChatReply, "content": STREAM}})
async def chat_completions(request: Request, body: Annotated[ChatBody, Body()]) -> Response:
    """Answer a conversation. The model needs a chat template."""
    service = _service(request)
    form = ChatFormat(service.model.tokenizer, has_logprobs=body.logprobs is True)
    return await _answer(request, body, body.n or 1, form, partial(prepare_chat, service.model, body))


async def _answer(
    request: Request,
    body: SamplingFields,
    count: int,
    form: Format,
    prepare: Callable[[Answer, int], list[Prompt]],
) -> Response:
    """Generate the texts of a request: as a stream, or whole."""
    service = _service(request)
    service.check_model(body.model)
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream: true", param="stream_options")
    if count > service.engine.capacity:
        raise ApiError(400, f"{count} texts at once: this server takes {service.engine.capacity} at most", param="n")
    answer = service.engine.open(count)
    is_handed_on = False
    try:
        prompts, first = await unless_gone(request.receive, _begin(service, answer, prepare))
        if body.stream:
            is_handed_on = True
            wants_usage = body.stream_options is not None and body.stream_options.include_usage is True
            events = _events(service, form, answer, prompts, first, wants_usage=wants_usage)
            return EventStream(events, partial(_end, service, answer))
        choices = await unless_gone(request.receive, _choices(form, answer, prompts, first))
        return JSONResponse(Envelope(form, service.name).whole(choices, answer, prompts))
    except ClientGoneError:
        return Response(status_code=CLIENT_GONE)
    finally:
        if not is_handed_on:
            _end(service, answer)


async def _begin(
    service: Service, answer: Answer, prepare: Callable[[Answer, int], list[Prompt]]
) -> tuple[list[Prompt], Pieces]:
    """Up to the first piece: what is wrong shows until then, mostly, and has a status of its own."""
    prompts = await service.engine.prepare(partial(prepare, answer, service.most_tokens))
    service.engine.submit(answer)
    return prompts, await answer.pieces()


async def _choices(form: Format, answer: Answer, prompts: Sequence[Prompt], first: Pieces) -> list[JsonObject]:
    results = [Generation() for _ in answer.texts]
    pieces = first
    while pieces:
        for text, delta in pieces:
            results[text.index].add(delta)
        pieces = await answer.pieces()
    n = len(results) // len(prompts)
    return [form.choice(index, result, prompts[index // n]) for index, result in enumerate(results)]


async def _events(
    service: Service,
    form: Format,
    answer: Answer,
    prompts: Sequence[Prompt],
    first: Pieces,
    *,
    wants_usage: bool,
) -> AsyncGenerator[list[JsonObject]]:
    """The chunks of a stream, those that came in one step together."""
    envelope, n = Envelope(form, service.name), len(answer.texts) // len(prompts)
    more: JsonObject = {"usage": None} if wants_usage else {}
    openings = [form.first(text.index, prompts[text.index // n]) for text in answer.texts]
    events = [envelope.chunk([opening], **more) for opening in openings if opening is not None]
    pieces = first
    try:
        while True:
            events += [
                envelope.chunk([form.delta(text.index, delta)], **more) for text, delta in pieces if form.shows(delta)
            ]
            if answer.is_whole:
                break
            if events:
                yield events
            events, pieces = [], await answer.pieces()
    except Exception as error:  # noqa: BLE001 - the status is sent already
        yield [api_error(error).content()]
        return
    events[-1]["timings"] = timings(answer)
    if wants_usage:
        events.append(envelope.chunk([], usage=usage(answer, prompts)))
    yield events


def _end(service: Service, answer: Answer) -> None:
    """Free what an answer holds, and count it."""
    service.metrics.ended(answer)
    answer.close()
