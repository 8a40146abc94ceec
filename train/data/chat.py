"""Conversations as text, by the tokenizer's own Jinja template, and which of that text the model learns to say.

What is learned is the assistant's: what stands in the conversation after the prompt that a program would give the model
at that point (the template's generation prompt), up to the token that ends the turn. So the loss mask follows from the
template alone, whatever its words are.

Templates come from strangers and run in a sandbox. `runtime.text.chat_template` renders the same text (a test
holds both to it).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from train.data.sources import Conversation
from train.errors import DataError

ASSISTANT = "assistant"
CHATML = Path(__file__).parent / "chatml.jinja"


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template, and the special tokens that it may name: `{"bos_token": "<s>", ...}`."""

    source: str
    tokens: Mapping[str, str]

    def render(self, messages: Conversation, *, add_generation_prompt: bool = False) -> str:
        """The text of these messages. Raises DataError where the template refuses them."""
        try:
            text: str = self._compiled.render(
                messages=[dict(message) for message in messages],
                tools=None,  # there, though none: templates ask `tools is not none`
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self.tokens,
            )
        except Exception as error:  # noqa: BLE001 - a stranger's template may raise anything
            raise DataError(f"the chat template fails on {_shown(messages)}: {error}") from None
        return text

    def learned_spans(self, messages: Conversation) -> tuple[str, list[tuple[int, int]]]:
        """The text of a conversation, and the characters [start, end) of it that the assistant says.

        Raises:
            DataError: the text before some message of the assistant is not the prompt that asks for it.
        """
        text = self.render(messages)
        spans = []
        for place, message in enumerate(messages):
            if message["role"] == ASSISTANT:
                prompt = self.render(messages[:place], add_generation_prompt=True)
                said = self.render(messages[: place + 1])
                if not (said.startswith(prompt) and text.startswith(said)):
                    raise DataError(
                        f"the chat template does not continue its own prompt in message {place + 1} of "
                        f"{_shown(messages)}, so what the assistant says cannot be told from what it is asked"
                    )
                spans.append((len(prompt), len(said)))
        return text, spans

    @cached_property
    def _compiled(self) -> Any:
        return _compile(self.source)


def encode_conversation(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Conversation
) -> tuple[list[int], list[bool]]:
    """The token ids of a conversation, and which of them are learned."""
    text, spans = template.learned_spans(messages)
    encoding = tokenizer.encode(text, add_special_tokens=False)
    special = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    learned = [False] * len(encoding.ids)
    for start, end in spans:
        inside = [i for i, (first, last) in enumerate(encoding.offsets) if start <= first and last <= end]
        ends_of_turn = [i for i in inside if encoding.ids[i] in special]
        for i in inside:
            # What follows the token that ends the turn, a line break say, is the template's.
            learned[i] = not ends_of_turn or i <= ends_of_turn[-1]
    return encoding.ids, learned


def end_of_turn(tokenizer: Tokenizer, template: ChatTemplate) -> int | None:
    """The special token with which the assistant ends what it says, if there is one."""
    ids, learned = encode_conversation(tokenizer, template, list(_exchange()))
    last = [token_id for token_id, is_learned in zip(ids, learned, strict=True) if is_learned][-1]
    return last if tokenizer.get_added_tokens_decoder().get(last) else None


def _exchange() -> Iterator[dict[str, str]]:
    yield {"role": "user", "content": "Hi"}
    yield {"role": ASSISTANT, "content": "Hello."}


def _compile(source: str) -> Any:
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    def strftime_now(layout: str) -> str:
        return datetime.now().astimezone().strftime(layout)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    environment.filters["tojson"] = to_json
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise DataError(f"the chat template does not parse: {error}") from None


def _shown(messages: Conversation) -> str:
    text = json.dumps(messages, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
