"""A chat template from its source: messages to text, with the names and rules of transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from runtime.errors import ChatTemplateError
from runtime.text.template_sandbox import (
    Rendered,
    bounded_filter,
    make_environment,
    measured_pieces,
    render,
    require_size,
)

# {"role": "system" | "user" | "assistant" | "tool", "content": text or a list of parts, ...}; a template may use more.
Message = Mapping[str, Any]

# A message's reasoning goes by these names; templates read the first one, gpt-oss's the second.
REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")
MAX_DEPTH = 1000  # of JSON: Python's recursion ends there
CONTINUATION = "CONTINUE_FINAL_MESSAGE_TAG "


class JinjaTemplate:
    """A compiled chat template. Threads may share one.

    Args:
        source: Jinja, with transformers' extensions: `{% break %}`, `{% continue %}`, `{% generation %}`.
        special_tokens: the texts that a template may name: `{"bos_token": "<s>", ...}`.

    Raises:
        ChatTemplateError: the source does not parse.
        MissingDependencyError: jinja2 is not installed.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self.source = source
        self.special_tokens = dict(special_tokens)
        self._compiled = _compile(source)

    @property
    def marks_generation(self) -> bool:
        """Whether the template marks what the assistant says with `{% generation %}`."""
        from jinja2 import nodes

        tree = self._compiled.environment.parse(self.source)
        return any(node.identifier.endswith(".GenerationTag") for node in tree.find_all(nodes.ExtensionAttribute))

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        continue_final_message: bool = False,
        **names: Any,
    ) -> Rendered:
        """The text of a conversation, and the places of its generation blocks.

        Args:
            messages: a message's keys reach the template as they are, apart from those that are None; its reasoning is
                there as `reasoning_content`, whichever of transformers' names it has.
            add_generation_prompt: end with what the assistant's answer follows.
            tools: JSON schemas of functions, `{"type": "function", "function": {...}}`.
            documents: with `title` and `text`, for templates that quote them.
            continue_final_message: end within the last message, so that the model goes on with it.
            names: the template's own switches, such as `enable_thinking=False`.

        Raises:
            ChatTemplateError: the template refuses the conversation, fails or exceeds its bounds; or the last message
                cannot be continued.
        """
        if isinstance(messages, (str, Mapping)):
            raise ChatTemplateError(
                'a conversation is a list of messages, such as [{"role": "user", "content": "hi"}], '
                f"not a {type(messages).__name__}"
            )
        for name, entries in (("tools", tools), ("documents", documents)):
            if not all(isinstance(entry, Mapping) for entry in entries or ()):
                raise ChatTemplateError(f"{name} must be a list of objects")
        if continue_final_message and add_generation_prompt:
            raise ChatTemplateError("continue_final_message and add_generation_prompt exclude each other; give one")
        try:
            conversation = [_prepared(message, place) for place, message in enumerate(messages, 1)]
            final = _mark_end(conversation) if continue_final_message else ""
            values = {
                **self.special_tokens,
                **_plain(names),
                "messages": conversation,
                "tools": _plain(tools),  # present even if None: templates ask `tools is not none`
                "documents": _plain(documents),
                "add_generation_prompt": add_generation_prompt,
            }
            rendered = render(self._compiled, values)
        except ChatTemplateError:
            raise
        except Exception as error:  # noqa: BLE001 - an untrusted template may raise anything
            raise ChatTemplateError(f"the chat template fails on these messages: {error}") from None
        return Rendered(_cut(rendered.text, final), rendered.blocks) if continue_final_message else rendered


def _compile(source: str) -> Any:
    environment = make_environment()
    from jinja2 import TemplateError

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def to_json(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        options = {"ensure_ascii": ensure_ascii, "indent": indent, "separators": separators, "sort_keys": sort_keys}
        if indent is None and separators is None:
            return json.dumps(value, **options)
        require_size(MAX_DEPTH * _length(indent))
        return "".join(measured_pieces(json.JSONEncoder(**options).iterencode(value)))

    def strftime_now(layout: str) -> str:
        return datetime.now().astimezone().replace(tzinfo=None).strftime(layout)  # local, and %Z is empty

    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    environment.filters["tojson"] = bounded_filter("tojson", to_json)
    try:
        return environment.from_string(source)
    except Exception as error:  # noqa: BLE001 - Python's compiler has errors of its own, for a `break` outside a loop
        raise ChatTemplateError(f"the chat template does not parse: {error}") from None


def _length(indent: Any) -> int:
    return len(indent) if isinstance(indent, str) else abs(indent) if isinstance(indent, int) else 0


def _prepared(message: Message, place: int) -> dict[str, Any]:
    """A copy of a message for the template."""
    if not isinstance(message, Mapping):
        raise ChatTemplateError(f"message {place} is a {type(message).__name__}, not an object with role and content")
    copy = {name: _plain(value) for name, value in message.items() if value is not None}
    reasoning = next((copy[name] for name in REASONING_NAMES if name in copy), None)
    return copy if reasoning is None else {"thinking": reasoning, **copy, "reasoning_content": reasoning}


def _plain(value: Any) -> Any:
    """A copy in JSON's types, so that a template can neither call an object's methods nor change the caller's data."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else [*map(_plain, value)]
    return f"<{type(value).__name__}>"


def _mark_end(conversation: list[dict[str, Any]]) -> str:
    """Put a mark after the text of the last message. Returns that text."""
    content = conversation[-1].get("content") if conversation else None
    if isinstance(content, str):
        conversation[-1]["content"] = content + CONTINUATION
        return content
    parts = content if isinstance(content, list) else []
    for part in reversed(parts):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            text: str = part["text"]
            part["text"] = text + CONTINUATION
            return text
    raise ChatTemplateError("there is no last message with text to continue")


def _cut(text: str, final: str) -> str:
    """The text up to the mark; what the template trims from the end of a message stays trimmed."""
    place = text.rfind(CONTINUATION.strip())
    if place < 0 or final.strip() not in text:
        raise ChatTemplateError("the chat template does not write the last message as it is: it cannot be continued")
    is_whole = text.startswith(CONTINUATION, place)
    return text[:place] if is_whole else text[:place].rstrip()
