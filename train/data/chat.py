"""Conversations as text, by the tokenizer's own Jinja template, and the part of that text that the model learns.

The assistant's words are learned: the text after the prompt that a program would give the model at that point (with the
template's generation prompt), up to the token that ends the turn. So the loss mask follows from the template alone.

Templates come from strangers. They run in the sandbox of the runtime, which bounds their work and the size of their
text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from runtime.text.chat_template import _compile as compile_template
from runtime.text.template_sandbox import render
from train.data.documents import ASSISTANT, Conversation, Message
from train.errors import DataError

CHATML = Path(__file__).parent / "chatml.jinja"
EXCHANGE = [{"role": "user", "content": "Hi"}, {"role": ASSISTANT, "content": "Hello."}]


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template, and the special tokens that it may use: `{"bos_token": "<s>", ...}`."""

    source: str
    tokens: Mapping[str, str]

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The text of these messages.

        Raises:
            ChatTemplateError: the template does not parse.
            DataError: it refuses these messages, or exceeds the bounds of the sandbox.
        """
        names = {
            "messages": [dict(message) for message in messages],
            "tools": None,  # defined, because templates ask `tools is not none`
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **self.tokens,
        }
        compiled = self._compiled
        try:
            return render(compiled, names)
        except Exception as error:  # noqa: BLE001 - a stranger's template may raise anything
            raise DataError(f"the chat template fails on {_shown(messages)}: {error}") from None

    def learned_spans(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """The text of a conversation, and the spans of characters [start, end) that the assistant says.

        Raises:
            DataError: the text before some message of the assistant is not the prompt for it.
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
        return compile_template(self.source)


def encode_conversation(
    tokenizer: Tokenizer, template: ChatTemplate, conversation: Conversation
) -> tuple[list[int], list[bool]]:
    """The token ids of a conversation, and whether each is learned."""
    text, spans = template.learned_spans(conversation.messages)
    encoding = tokenizer.encode(text, add_special_tokens=False)
    special = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    learned = [False] * len(encoding.ids)
    for start, end in spans:
        inside = [i for i, (first, last) in enumerate(encoding.offsets) if start <= first and last <= end]
        ends_of_turn = [i for i in inside if encoding.ids[i] in special]
        for i in inside:
            # What follows the token that ends the turn, such as a line break, is the template's.
            learned[i] = not ends_of_turn or i <= ends_of_turn[-1]
    return encoding.ids, learned


def end_of_turn(tokenizer: Tokenizer, template: ChatTemplate) -> int | None:
    """The special token that ends the assistant's turn, if there is one."""
    ids, learned = encode_conversation(tokenizer, template, Conversation(EXCHANGE))
    last = [token_id for token_id, is_learned in zip(ids, learned, strict=True) if is_learned][-1]
    return last if tokenizer.get_added_tokens_decoder().get(last) else None


def _shown(messages: Sequence[Message]) -> str:
    text = json.dumps(list(messages), ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
