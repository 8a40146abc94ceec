"""Write: continue a text."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from app.generation import MakePrompt, Prompt
from app.service import page_service
from app.wishes import ContinueWish
from runtime.language_model import LanguageModel
from runtime.sampling.options import SamplingOptions

router = APIRouter()


@router.post("/page/continue")
async def continue_text(request: Request, wish: Annotated[ContinueWish, Body()]) -> Response:
    """Stream what follows a text."""
    return page_service(request).stream(request, wish, text_prompt(wish.text))


def text_prompt(text: str) -> MakePrompt:
    """The prompt that is a text."""

    def make(model: LanguageModel, _: SamplingOptions) -> Prompt:
        return Prompt(model.tokenizer.encode_prompt(text))

    return make
