"""Compare: one prompt, in a precision or under settings after another. The page asks for one column at a time."""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from app.api.errors import api_error
from app.generation import Event, Events, MakePrompt, PageText, Prompt
from app.models import Models
from app.service import page_service
from app.tabs.chat import chat_prompt
from app.tabs.write import text_prompt
from app.torch_process import TorchProcess
from app.wishes import PageLimits, PageMessage, PromptWish
from runtime.generation.text_delta import TextDelta
from runtime.language_model import LanguageModel
from runtime.sampling.options import SamplingOptions

router = APIRouter()

PYTORCH = "pytorch"  # what a wish calls it, in place of a precision


@router.post("/page/compare")
async def compare(request: Request, wish: Annotated[PromptWish, Body()]) -> Response:
    """Stream a column: tokens with their ids, whose time is that of the whole prompt and of no other column."""
    service = page_service(request)
    make_text = partial(TorchText, service.torch) if wish.precision == PYTORCH else ColumnText
    return service.stream(request, wish, whole_prompt(wish), make_text)


def whole_prompt(wish: PromptWish) -> MakePrompt:
    """The prompt of a column, of which nothing is taken from an earlier text."""
    make = single_prompt(wish)

    def make_whole(model: LanguageModel, options: SamplingOptions) -> Prompt:
        return Prompt(make(model, options).ids, reuse=False)

    return make_whole


def single_prompt(wish: PromptWish) -> MakePrompt:
    """The prompt that is a text, or a question in the chat template."""
    return chat_prompt(messages(wish)) if wish.as_question else text_prompt(wish.text)


def messages(wish: PromptWish) -> list[PageMessage]:
    """A question, after the system message where there is one."""
    system = [PageMessage(role="system", content=wish.system)] if wish.system else []
    return [*system, PageMessage(role="user", content=wish.text)]


class ColumnText(PageText):
    """A column of an exported precision. Its tokens come with their ids: columns are held beside each other."""

    def _event(self, deltas: list[TextDelta]) -> Event:
        return {"tokens": [[delta.text, delta.token_id] for delta in deltas]}


class TorchText(PageText):
    """The column of PyTorch.

    Args:
        torch: computes it.
        models: the default one tokenizes, and knows the model's own options.
        wish: how.
        make_prompt: of the model, run beside the event loop.
        limits: of the request.
    """

    def __init__(
        self, torch: TorchProcess, models: Models, wish: PromptWish, make_prompt: MakePrompt, limits: PageLimits
    ) -> None:
        super().__init__(models, wish, make_prompt, limits)
        self._torch = torch

    async def events(self) -> Events:
        """See PageText."""
        try:
            found = await self._models.get(self._models.default)
            start, job = await found.engine.prepare(lambda: self._job(found.model))
            async with aclosing(self._torch.generate(*job)) as coming:
                async for message in coming:
                    yield [_event(message, start)]
        except Exception as error:  # noqa: BLE001 - the status is sent already; a visitor is told in words
            yield [{"error": str(api_error(error))}]

    def _job(self, model: LanguageModel) -> tuple[Event, tuple[list[int], dict[str, Any]]]:
        """What the page is told at the start, and what the process is: prompt ids and options."""
        prompt, options, start = self.plan(model)
        changed = {"seed": options.seed, "max_new_tokens": options.max_new_tokens}
        return start | {"precision": PYTORCH}, (prompt.ids, self._wish.sampling.given() | changed)


def _event(message: Event, start: Event) -> Event:
    if "token" in message:
        return {"tokens": [message["token"]]}
    return {"start": start} if "start" in message else message
