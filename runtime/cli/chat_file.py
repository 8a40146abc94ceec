"""Conversations as files: a JSON object with `messages`, as chat APIs take them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from runtime.errors import PromptError
from runtime.text.chat_template import Message


def write_messages(path: str, messages: list[Message]) -> None:
    """Keep a conversation. The file is whole or not there.

    Raises:
        PromptError: no name, or it cannot be written.
    """
    if not path:
        raise PromptError("a conversation needs the name of a file, such as /save chat.json")
    target, temporary = Path(path), None
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=target.parent, delete=False) as file:
            temporary = file.name
            json.dump({"messages": messages}, file, ensure_ascii=False, indent=2)
        Path(temporary).replace(target)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise PromptError(f"{path} cannot be written: {error.strerror}") from None


def read_messages(path: str) -> list[Message]:
    """The conversation in a file.

    Raises:
        PromptError: it cannot be read, or holds no messages of text.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8")) if path else None
    except OSError as error:
        raise PromptError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        value = None
    messages = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(messages, list) or not all(map(_is_message, messages)):
        raise PromptError(f'{path or "the name of a file"} must hold {{"messages": [{{"role": ..., "content": ...}}]}}')
    return messages


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))
