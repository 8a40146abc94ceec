"""Chat: answer a conversation, which the visitor's page keeps."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from app.generation import MakePrompt, Prompt
from app.service import page_service
from app.wishes import ChatWish, PageMessage
from runtime.engine.sequence import DEFAULT_MAX_NEW_TOKENS
from runtime.errors import ContextLengthError, PromptError
from runtime.language_model import LanguageModel
from runtime.sampling.options import DefaultLength, SamplingOptions

router = APIRouter()


@router.post("/page/chat")
async def chat(request: Request, wish: Annotated[ChatWish, Body()]) -> Response:
    """Stream the answer to the last question, or what follows the last answer."""
    return page_service(request).stream(request, wish, chat_prompt(wish.messages))


def chat_prompt(messages: Sequence[PageMessage]) -> MakePrompt:
    """The prompt of a conversation; the oldest questions, with their answers, are left out where it has no room."""

    def make(model: LanguageModel, options: SamplingOptions) -> Prompt:
        system = [message for message in messages[:1] if message.role == "system"]
        turns = messages[len(system) :]
        context = model.session.shape.max_position_embeddings
        needed = min(_wanted(options), context // 4)

        def prompt(pairs: int) -> Prompt:
            return Prompt(_ids(model, [*system, *turns[2 * pairs :]]), 2 * pairs)

        def has_room(pairs: int) -> bool:
            try:
                # Once some are left out, room for the next ones, too: what is computed then holds for a while.
                return len(prompt(pairs).ids) + needed <= (context // 2 if pairs else context)
            except ContextLengthError:
                return False

        most = (len(turns) - 1) // 2
        if has_room(0):
            return prompt(0)
        return prompt(min(most, 1 + bisect_left(range(1, most), True, key=has_room)))

    return make


def _wanted(options: SamplingOptions) -> int:
    length = options.max_new_tokens
    return DEFAULT_MAX_NEW_TOKENS if length is None or isinstance(length, DefaultLength) else length


def _ids(model: LanguageModel, messages: Sequence[PageMessage]) -> list[int]:
    rest = ""
    if messages[-1].role == "assistant":
        rest, messages = messages[-1].content, messages[:-1]
    if not messages or messages[-1].role != "user":
        raise PromptError("a conversation needs a question to answer")
    text = model.chat_template.render([message.model_dump() for message in messages])
    # The template has put the special tokens in.
    return model.tokenizer.encode_prompt(text + rest, add_special_tokens=False)
