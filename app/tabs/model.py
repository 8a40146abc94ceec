"""Model: what it is, how exact and how fast its precisions are, and how it cuts a text into tokens."""

from __future__ import annotations

import asyncio
import random
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from starlette.responses import JSONResponse, Response

from app.api.engine import Answer
from app.api.errors import api_error
from app.api.streaming import EventStream
from app.generation import Events, PageText, figures
from app.loss_curve import loss_curve
from app.reproduce import Reproduction
from app.service import PageService, page_service
from app.tabs.compare import messages, single_prompt
from app.tokens import pieces
from app.wishes import MeasureWish, PromptWish, TokenizeWish
from runtime.bundle import Bundle
from runtime.language_model import LanguageModel
from runtime.sampling.options import SamplingOptions

router = APIRouter()

MEASURE_SECONDS = 20.0
MEASURED_PROMPT_TOKENS, MEASURED_NEW_TOKENS = 256, 64
# What the page shows of a comparison.
FIGURES = (
    "kl", "top1_agreement", "perplexity", "file_bytes", "prefill_tokens_per_second", "decode_tokens_per_second"
)  # fmt: skip


@router.get("/page/model")
async def card(request: Request) -> Response:
    """What is known of the model."""
    service = page_service(request)
    return JSONResponse(await asyncio.to_thread(_card, service))


@router.post("/page/tokenize")
async def tokenize(request: Request, wish: Annotated[TokenizeWish, Body()]) -> Response:
    """The tokens of a text, with their ids."""
    models = page_service(request).models
    found = await models.get(models.default)
    return JSONResponse(await found.engine.prepare(lambda: tokens_of(found.model, wish)))


@router.post("/page/reproduce")
async def reproduce(request: Request, wish: Annotated[PromptWish, Body()]) -> Response:
    """The command line and the Python lines that make the text of this wish."""
    service = page_service(request)
    found = await service.models.get(service.models.default)
    text = PageText(service.models, wish, single_prompt(wish), service.limits)
    _, options, _ = await found.engine.prepare(lambda: text.plan(found.model))
    given = wish.sampling.given() | {"max_new_tokens": options.max_new_tokens}
    wanted = Reproduction(
        service.source,
        wish.precision or service.models.default,
        given,
        wish.text,
        messages(wish) if wish.as_question else (),
    )
    return JSONResponse({"command_line": wanted.command_line(), "python": wanted.python_lines()})


@router.post("/page/measure")
async def measure(request: Request, wish: Annotated[MeasureWish, Body()]) -> Response:
    """Stream a row for each text that is generated in 20 seconds, beside those of other visitors."""
    service = page_service(request)
    client = request.client.host if request.client else ""
    service.visitors.enter(client, service.limits.texts)
    return EventStream(measured(service, wish), partial(service.visitors.leave, client))


def _card(service: PageService) -> dict[str, Any]:
    bundle = service.models.bundle
    manifest = bundle.manifest
    comparison = manifest.get("comparison", {})
    rows = comparison.get("precisions", {})
    return {
        "name": service.name,
        "source": manifest.get("base_model") or _short(manifest.get("source")),
        "license": _license(bundle),
        "parameters": manifest.get("parameters", {}),
        "context_tokens": bundle.shape.max_position_embeddings,
        "vocabulary_tokens": bundle.shape.vocab_size,
        "layers": bundle.shape.num_hidden_layers,
        "versions": manifest.get("versions", {}),
        "compared_on": {name: comparison[name] for name in ("text", "tokens") if name in comparison},
        "reference": comparison.get("reference", {}),
        "pytorch": {"missing": service.torch.missing, "bytes": service.torch.weight_bytes},
        "precisions": {
            name: {"file_bytes": bundle.file_bytes(name)}
            | {figure: rows[name][figure] for figure in FIGURES if figure in rows.get(name, {})}
            for name in bundle.precisions
        },
        "losses": loss_curve(manifest.get("source")),
    }


def _short(source: object) -> str | None:
    """The checkpoint without the folders around it, which are this machine's alone to know."""
    return "/".join(Path(source).parts[-2:]) if isinstance(source, str) else None


def _license(bundle: Bundle) -> str | None:
    """What the model card's head says."""
    try:
        head = (bundle.folder / "README.md").read_text(encoding="utf-8").split("---")[1]
    except (OSError, IndexError, UnicodeDecodeError):
        return None
    named = [line.partition(":")[2].strip() for line in head.splitlines() if line.startswith("license:")]
    return named[0] if named else None


def tokens_of(model: LanguageModel, wish: TokenizeWish) -> dict[str, Any]:
    """The pieces of a text with their token ids, and its size."""
    text = wish.text
    if wish.as_question:
        text = model.chat_template.render([{"role": "user", "content": text}])
    ids = model.tokenizer.encode(text, add_special_tokens=not wish.as_question) if text else []
    return {
        "pieces": [[piece.text, piece.token_ids, piece.is_special] for piece in pieces(model.tokenizer, ids)],
        "tokens": len(ids),
        "characters": len(text),
        "bytes": len(text.encode()),
    }


async def measured(service: PageService, wish: MeasureWish) -> Events:
    """Rows of speeds, a text each, for as long as a measurement takes."""
    try:
        precision = wish.precision or service.models.default
        if service.models.state(precision) != "ready":
            yield [{"loading": precision}]
        await service.models.get(precision)
        ends = time.monotonic() + MEASURE_SECONDS
        while time.monotonic() < ends:
            yield [{"row": await _round(service, precision)}]
        yield [{"end": {}}]
    except Exception as error:  # noqa: BLE001 - the status is sent already
        yield [{"error": str(api_error(error))}]


async def _round(service: PageService, precision: str) -> dict[str, Any]:
    """One text of random tokens, to its full length."""
    found = await service.models.get(precision)
    engine, model = found.engine, found.model
    answer = engine.open(1)  # before anything is awaited: a precision without an answer may be closed
    try:
        others = engine.accepted - 1
        text = answer.texts[0]
        shape = model.session.shape
        prompt_tokens = min(MEASURED_PROMPT_TOKENS, shape.max_position_embeddings // 2)
        new_tokens = min(MEASURED_NEW_TOKENS, shape.max_position_embeddings - prompt_tokens)
        ids = [random.randrange(shape.vocab_size) for _ in range(prompt_tokens)]  # noqa: S311 - no secret
        options = SamplingOptions(temperature=0, max_new_tokens=new_tokens, stop_token_ids=())
        text.request = model.text_request(ids, options, reuse_prompt=False, on_delta=text.take)
        engine.submit(answer)
        await _drain(answer)
        cost = figures(text, "length")
    finally:
        answer.close()
    first = cost["first_token_seconds"]
    return {
        "precision": precision,
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "prefill_tokens_per_second": prompt_tokens / first if first else None,
        "decode_tokens_per_second": cost["tokens_per_second"],
        "others": others,
    }


async def _drain(answer: Answer) -> None:
    while await answer.pieces():
        pass
