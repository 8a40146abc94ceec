"""Documents, and how a row of fields becomes one: a text, a conversation, or a prompt with its completion.

Conversations may be written as `role` and `content` or, as in ShareGPT, as `from` and `value`; a content may be a list
of text parts. Every other key of a message is kept for the chat template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from train.errors import DataError

Message = dict[str, Any]  # {"role": ..., "content": ...} and whatever else the template uses

ASSISTANT = "assistant"
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": ASSISTANT,
    "chatgpt": ASSISTANT,
    "assistant": ASSISTANT,
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
NO_ROLES: Mapping[str, str] = MappingProxyType({})
ALPACA_FIELDS = ("system", "instruction", "input", "output")
DEEPEST = 64  # levels in a message


class NoAssistantError(DataError):
    """A conversation in which nobody is the assistant, so that nothing is learned."""


@dataclass(frozen=True)
class Conversation:
    """Messages, and what the chat template gets beside them.

    Attributes:
        messages: in order.
        tools: JSON schemas of functions, or None.
        prompt_messages: how many of the messages, from the first, belong to a prompt and are never learned.
        where: the row it comes from, for messages to the user.
    """

    messages: list[Message]
    tools: list[Any] | None = None
    prompt_messages: int = 0
    where: str = field(default="a conversation", compare=False)

    def __len__(self) -> int:
        return sum(len(text) for text in self.texts())

    def texts(self) -> list[str]:
        """The contents of the messages."""
        return [message["content"] for message in self.messages if isinstance(message.get("content"), str)]

    def check_has_assistant(self) -> None:
        """Raise NoAssistantError where nobody is the assistant."""
        roles = list(dict.fromkeys(message["role"] for message in self.messages))
        if ASSISTANT not in roles:
            names = ", ".join(map(repr, roles))
            raise NoAssistantError(
                f"{self.where}: nobody is 'assistant' (the roles are {names}), so nothing would be learned; say who is "
                f'by the source\'s roles, such as roles = {{ {_key(roles[-1])} = "assistant" }}'
            )

    def identity(self) -> str:
        """A text that equal conversations, and no others, have in common."""
        extra = [self.tools, self.prompt_messages] if self.tools or self.prompt_messages else []
        said = [self.messages, *extra] if extra else self.messages
        return json.dumps(said, sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True)
class Completion:
    """A prompt, and a text that follows it and alone is learned."""

    prompt: str
    text: str

    def __len__(self) -> int:
        return len(self.prompt) + len(self.text)

    def texts(self) -> list[str]:
        """The prompt with its completion."""
        return [self.prompt + self.text]

    def identity(self) -> str:
        """A text that equal completions, and no others, have in common."""
        return json.dumps([self.prompt, self.text], ensure_ascii=False)


@dataclass(frozen=True)
class Preference:
    """Two answers to the same prompt, each a document with it, of which one is better."""

    chosen: str | Conversation | Completion
    rejected: str | Conversation | Completion

    def __len__(self) -> int:
        return len(self.chosen) + len(self.rejected)

    def texts(self) -> list[str]:
        """The texts in both."""
        return [*texts(self.chosen), *texts(self.rejected)]

    def identity(self) -> str:
        """A text that equal preferences, and no others, have in common."""
        return json.dumps([identity(self.chosen), identity(self.rejected)], ensure_ascii=False)


Document = str | Conversation | Completion | Preference


def identity(document: Document) -> str:
    """A text that equal documents have in common."""
    return document if isinstance(document, str) else document.identity()


def texts(document: Document) -> list[str]:
    """The text in a document."""
    return [document] if isinstance(document, str) else document.texts()


def is_blank(document: Document) -> bool:
    """Whether there is nothing to read in a document."""
    if isinstance(document, Conversation):
        return not document.messages
    return not "".join(texts(document)).strip()


def read_document(
    row: Any,
    where: str,
    *,
    field: str,
    prompt_field: str | None = None,
    ignored_keys: Iterable[str] = (),
    roles: Mapping[str, str] = NO_ROLES,
) -> Document:
    """The document in a row of fields.

    Args:
        row: of a file or a data set.
        where: the row, for messages to the user.
        field: holds a text, or a list of messages.
        prompt_field: holds what precedes it, of the same kind; not learned.
        ignored_keys: of messages, and `tools` of the row; they are dropped.
        roles: what other names of roles stand for: {"bot": "assistant"}.

    Raises:
        DataError: the row has no such field, or it holds something else.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{where} is not an object with a field {field!r}")
    check_field(row, field, where)
    ignored = frozenset(ignored_keys)

    def messages_of(values: list[Any]) -> list[Message]:
        return [_message(value, ignored, roles, where) for value in values]

    if prompt_field is not None:
        check_field(row, prompt_field, where)
    prompt, value = "" if prompt_field is None else row[prompt_field], row[field]
    document: Document
    if isinstance(value, str) and isinstance(prompt, str):
        document = value if prompt_field is None else Completion(prompt, value)
    elif _is_list(value) and (prompt_field is None or _is_list(prompt)):
        before = [] if prompt_field is None else messages_of(prompt)
        messages = [*before, *messages_of(value)]
        document = Conversation(messages, _tools(row, ignored, where), len(before), where)
    elif prompt_field is not None:
        raise DataError(f"{where}: {prompt_field!r} and {field!r} are neither two texts nor two lists of messages")
    else:
        raise DataError(f"{where}: {field!r} is neither a text nor a list of messages with role and content")
    try:
        identity(document).encode()
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair
        raise DataError(f"{where}: {field!r} is not valid Unicode") from None
    return document


def from_alpaca(row: Any, where: str) -> dict[str, Any]:
    """A row of `instruction`, `input` and `output` as one of `messages`, with a `system` message where it has one.

    The instruction and the input, with an empty line between them, are what the user says (Alpaca, Taori et al. 2023).

    Raises:
        DataError: a field is missing, or is not a text.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{where} is not an object with the fields of Alpaca")
    for name in ("instruction", "output"):
        check_field(row, name, where)
    said = {name: row.get(name) or "" for name in ALPACA_FIELDS}
    if wrong := [name for name, text in said.items() if not isinstance(text, str)]:
        raise DataError(f"{where}: {wrong[0]!r} is not a text")
    question = "\n\n".join(filter(None, (said["instruction"], said["input"])))
    turns = {"system": said["system"], "user": question, ASSISTANT: said["output"]}
    return {"messages": [{"role": role, "content": text} for role, text in turns.items() if text or role != "system"]}


def check_field(fields: Iterable[Any], field: str, where: str) -> None:
    """Raise DataError, which lists the fields, where `field` is not among them."""
    names = [str(name) for name in fields]
    if field not in names:
        known = ", ".join(names[:8]) or "none"
        raise DataError(f"{where} has no field {field!r} (set the source's field); there are: {known}{_hint(names)}")


def _hint(names: list[str]) -> str:
    if {"prompt", "completion"} <= set(names):
        return '; for a prompt with its completion set field = "completion" and prompt_field = "prompt"'
    if {"instruction", "output"} <= set(names):
        return '; for rows of instruction, input and output set format = "alpaca"'
    conversations = [name for name in ("messages", "conversations", "conversation") if name in names]
    return f'; for its conversations set field = "{conversations[0]}"' if conversations else ""


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _message(value: Any, ignored: frozenset[str], roles: Mapping[str, str], where: str) -> Message:
    """A message as `role`, `content` and its other keys, without those that are None."""
    if not isinstance(value, Mapping):
        raise DataError(f"{where} is neither a text nor a list of messages: it holds {_shown(value)}")
    if _depth(value) > DEEPEST:
        raise DataError(f"{where}: a message is nested too deeply")
    present = {key: entry for key, entry in value.items() if entry is not None}
    message = {key: entry for key, entry in present.items() if key not in ignored}
    if "role" not in message and "from" in message:
        message = _from_sharegpt(message, roles, where)
    elif isinstance(message.get("role"), str):
        message["role"] = roles.get(message["role"], message["role"])
    if not isinstance(message.get("role"), str):
        raise DataError(f"{where}: a message has no role: {_shown(value)}")
    if isinstance(message.get("content"), list):
        message["content"] = _joined(message["content"], where)
    if not isinstance(message.get("content", ""), str) or message.keys() <= {"role"}:
        raise DataError(f"{where}: a message's content is neither a text nor a list of text parts: {_shown(value)}")
    if not message.get("content") and present.keys() & ignored and message["role"] == ASSISTANT:
        message["weight"] = 0  # without the tool calls, say, that are ignored it would teach to say nothing
    return message


def _from_sharegpt(message: Message, roles: Mapping[str, str], where: str) -> Message:
    name = str(message["from"])
    role = roles.get(name) or SHAREGPT_ROLES.get(name)
    if role is None:
        known = ", ".join(SHAREGPT_ROLES)
        raise DataError(
            f"{where}: a message is from {name!r}; known are {known}; if it is the assistant set the source's "
            f'roles = {{ {_key(name)} = "assistant" }}'
        )
    rest = {key: value for key, value in message.items() if key not in ("from", "value")}
    return {"role": role, "content": message.get("value"), **rest}


def _key(name: str) -> str:
    """A name as a key of TOML."""
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _joined(parts: list[Any], where: str) -> str:
    """The text of a content in parts, which templates for text models expect in one piece."""
    for part in parts:
        if not (isinstance(part, Mapping) and part.get("type", "text") == "text" and isinstance(part.get("text"), str)):
            raise DataError(f"{where}: a part of a message's content is not a text: {_shown(part)}")
    return "".join(part["text"] for part in parts)


def _tools(row: Mapping[str, Any], ignored: frozenset[str], where: str) -> list[Any] | None:
    """The functions that the conversation may call: a list, or a list as JSON text."""
    tools = None if "tools" in ignored else row.get("tools")
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError):
            raise DataError(f"{where}: 'tools' is a text that is not JSON") from None
    if not tools:
        return None
    if not isinstance(tools, list) or _depth(tools) > DEEPEST:
        raise DataError(f"{where}: 'tools' is not a list of functions: {_shown(tools)}")
    return tools


def _depth(value: Any, limit: int = DEEPEST + 1) -> int:
    """The levels of a nested value, counted up to the limit."""
    if limit == 0 or not isinstance(value, (Mapping, list)):
        return 0
    inner = value.values() if isinstance(value, Mapping) else value
    return 1 + max((_depth(entry, limit - 1) for entry in inner), default=0)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
