"""Conversations as text, by the tokenizer's own Jinja template, and the part of that text that the model learns.

The template's `{% generation %}` blocks are what is learned, where it has any. Else the assistant's words are: the text
after the prompt that a program would give the model at that point (with the template's generation prompt), up to the
token that ends the turn. A message of the assistant with `"weight": 0` is not learned.

Templates come from strangers. They run in the sandbox of the runtime, which bounds their work and the size of their
text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from runtime.errors import ChatTemplateError
from runtime.text.jinja_template import JinjaTemplate
from runtime.text.template_sandbox import Rendered
from train.data.config import LAST_TURN, STOP
from train.data.documents import ASSISTANT, Conversation
from train.errors import DataError

CHATML = Path(__file__).parent / "chatml.jinja"
EXCHANGE = [{"role": "user", "content": "Hi"}, {"role": ASSISTANT, "content": "Hello."}]
WEIGHT = "weight"
Spans = list[tuple[int, int]]  # of characters, [start, end)


class UnmaskableError(DataError):
    """A conversation that the chat template refuses, or in which the assistant's words cannot be told exactly."""


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template, and the special tokens that it may use: `{"bos_token": "<s>", ...}`."""

    source: str
    tokens: Mapping[str, str]

    def __reduce__(self) -> tuple[Any, ...]:
        return ChatTemplate, (self.source, self.tokens)  # a compiled template cannot be sent to a worker

    def render(self, conversation: Conversation, *, add_generation_prompt: bool = False) -> Rendered:
        """The text of a conversation.

        Raises:
            ChatTemplateError: the template does not parse.
            UnmaskableError: it refuses the conversation.
            DataError: it exceeds the bounds of the sandbox.
        """
        template = self._compiled
        try:
            return template.render(
                conversation.messages, add_generation_prompt=add_generation_prompt, tools=conversation.tools
            )
        except ChatTemplateError as error:
            # The sandbox's own errors have no cause in the template's code, and would come back at every row.
            kind = UnmaskableError if error.__context__ is not None else DataError
            raise kind(f"{conversation.where}: {error}") from None

    def learned_spans(self, conversation: Conversation) -> tuple[str, Spans]:
        """The text of a conversation, and the spans of it that are learned.

        Raises:
            DataError: a message has a key that the template does not use.
            UnmaskableError: the assistant's words cannot be told exactly.
        """
        self.check_keys(conversation)
        rendered = self.render(conversation)
        turns = _turns(conversation)
        if not self.marks_generation:
            return rendered.text, [
                self._span(conversation, place, rendered.text) for place, learned in turns if learned
            ]
        spans = _generation_spans(rendered, conversation)
        if all(learned for _, learned in turns):
            return rendered.text, spans
        if len(spans) != len(turns):
            raise UnmaskableError(
                f"{conversation.where}: the chat template has {len(spans)} generation blocks for {len(turns)} messages "
                "of the assistant, of which some are not to be learned"
            )
        return rendered.text, [span for span, (_, learned) in zip(spans, turns, strict=True) if learned]

    def last_turn(self, conversation: Conversation) -> tuple[str, Spans]:
        """The text up to the assistant's last message, which alone is learned. Raises as `learned_spans` does."""
        self.check_keys(conversation)
        turns = _turns(conversation)
        if not turns:
            return self.render(conversation).text, []
        place, learned = turns[-1]
        shorter = _cut(conversation, place + 1)
        rendered = self.render(shorter)
        if self.marks_generation:
            spans = _generation_spans(rendered, conversation)[-1:]
        else:
            spans = [self._span(shorter, place, rendered.text)]
        return rendered.text, spans if learned else []

    def check_keys(self, conversation: Conversation) -> None:
        """Raise DataError where a message, or the row, has a key that the template does not use."""
        for place, key in _extra_keys(conversation):
            if not self._uses(conversation, place, key):
                where = conversation.where if place is None else f"{conversation.where}, message {place + 1}"
                raise DataError(
                    f"{where}: the chat template does not use the key {key!r}, so it would be lost: give a "
                    f"template that does, or train without it (the source's ignored_keys = [{key!r}])"
                )

    def _uses(self, conversation: Conversation, place: int | None, key: str) -> bool:
        """Whether the key changes the text of the conversation, or of its part up to this message.

        Some templates write a key in the last message only, such as the reasoning that led to an answer.
        """
        ends = [len(conversation.messages)] + ([] if place is None else [place + 1])
        for end in ends:
            part = _cut(conversation, end)
            if place is None:
                without = dataclasses.replace(part, tools=None)
            else:
                rest = {name: value for name, value in part.messages[place].items() if name != key}
                without = dataclasses.replace(
                    part, messages=[*part.messages[:place], rest, *part.messages[place + 1 :]]
                )
            try:
                if self.render(part).text != self.render(without).text:
                    return True
            except UnmaskableError:  # it matters whether the key is there, or the conversation is refused later
                return True
        return False

    def _span(self, conversation: Conversation, place: int, text: str) -> tuple[int, int]:
        """The span of an assistant's message. Raises UnmaskableError unless its prompt and `text` agree."""
        prompt = self.render(_cut(conversation, place), add_generation_prompt=True).text
        said = self.render(_cut(conversation, place + 1)).text
        if not (said.startswith(prompt) and text.startswith(said)):
            raise UnmaskableError(
                f"{conversation.where}, message {place + 1}: the chat template does not continue its own prompt, so "
                "the assistant's words cannot be told exactly"
            )
        return len(prompt), len(said)

    @cached_property
    def marks_generation(self) -> bool:
        """Whether the template marks what is learned with `{% generation %}`."""
        return self._compiled.marks_generation

    @cached_property
    def _compiled(self) -> JinjaTemplate:
        return JinjaTemplate(self.source, self.tokens)


def encode_conversation(
    tokenizer: Tokenizer, template: ChatTemplate, conversation: Conversation, *, on_unmaskable: str = STOP
) -> tuple[list[int], list[bool]]:
    """The token ids of a conversation, and whether each is learned.

    Args:
        tokenizer: its special tokens end turns.
        template: writes the conversation.
        conversation: to encode.
        on_unmaskable: "last_turn" learns the assistant's last message alone where all of them cannot be told exactly.

    Raises:
        DataError: a message has a key that the template does not use.
        UnmaskableError: the assistant's words cannot be told exactly.
    """
    try:
        text, spans = template.learned_spans(conversation)
    except UnmaskableError:
        if on_unmaskable != LAST_TURN:
            raise
        text, spans = template.last_turn(conversation)
    encoding = tokenizer.encode(text, add_special_tokens=False)
    learned = [False] * len(encoding.ids)
    for start, end in spans:
        for place in _tokens(tokenizer, template, encoding, start, end):
            learned[place] = True
    return encoding.ids, learned


def end_of_turn(tokenizer: Tokenizer, template: ChatTemplate) -> int | None:
    """The special token that ends the assistant's turn, if there is one."""
    ids, learned = encode_conversation(tokenizer, template, Conversation(EXCHANGE))
    said = [token_id for token_id, is_learned in zip(ids, learned, strict=True) if is_learned]
    while said and not tokenizer.decode(said[-1:], skip_special_tokens=False).strip():
        said.pop()  # a generation block may hold the line break after the turn
    return said[-1] if said and said[-1] in tokenizer.get_added_tokens_decoder() else None


def _tokens(
    tokenizer: Tokenizer, template: ChatTemplate, encoding: Encoding, start: int, end: int
) -> Iterator[int] | range:
    """The places of the tokens of a span."""
    if template.marks_generation:  # as in transformers: from the token of the first character to that of the last
        first, last = encoding.char_to_token(start), encoding.char_to_token(max(start, end - 1))
        if first is None or start == end:
            return range(0)
        return range(first, len(encoding) if last is None else last + 1)
    special = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    inside = [place for place, (first, last) in enumerate(encoding.offsets) if start <= first and last <= end]
    ends_of_turn = [place for place in inside if encoding.ids[place] in special]
    # What follows the token that ends the turn, such as a line break, is the template's.
    return iter(place for place in inside if not ends_of_turn or place <= ends_of_turn[-1])


def _turns(conversation: Conversation) -> list[tuple[int, bool]]:
    """The places of the assistant's messages, and whether each is learned."""
    turns = []
    for place, message in enumerate(conversation.messages):
        if message["role"] == ASSISTANT:
            weight = message.get(WEIGHT, 1)
            if weight not in (0, 1):
                raise DataError(f"{conversation.where}, message {place + 1}: weight must be 0 or 1, not {weight!r}")
            turns.append((place, bool(weight) and place >= conversation.prompt_messages))
    return turns


def _extra_keys(conversation: Conversation) -> Iterator[tuple[int | None, str]]:
    """The keys beside role, content and an assistant's weight that hold anything, with their message's place."""
    if conversation.tools:
        yield None, "tools"
    for place, message in enumerate(conversation.messages):
        honoured = {"role", "content"} | ({WEIGHT} if message["role"] == ASSISTANT else set())
        yield from ((place, key) for key, value in message.items() if key not in honoured and value not in ("", [], {}))


def _generation_spans(rendered: Rendered, conversation: Conversation) -> Spans:
    try:
        return rendered.generation_spans()
    except ChatTemplateError as error:
        raise UnmaskableError(f"{conversation.where}: {error}") from None


def _cut(conversation: Conversation, messages: int) -> Conversation:
    """The first messages of a conversation."""
    return dataclasses.replace(conversation, messages=conversation.messages[:messages])
