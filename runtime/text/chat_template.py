"""The chat template of a bundle: which source, and which special tokens it may name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.bundle import Bundle, read_json
from runtime.errors import ChatTemplateError
from runtime.text.jinja_template import JinjaTemplate, Message

__all__ = ["ChatTemplate", "JinjaTemplate", "Message"]


class ChatTemplate:
    """The chat template of a bundle.

    Raises:
        ChatTemplateError: the bundle has none, or it does not parse.
        MissingDependencyError: jinja2 is not installed.
    """

    def __init__(self, bundle: Bundle) -> None:
        settings = read_json(bundle.folder / "tokenizer_config.json")
        tokens = {
            name: _token_text(settings[name]) for name in ("bos_token", "eos_token", "pad_token") if settings.get(name)
        }
        self._template = JinjaTemplate(_source(bundle.folder, settings), tokens)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **options: Any) -> str:
        """The prompt for these messages. `JinjaTemplate.render` says what the options are, and what it raises."""
        if not messages:
            raise ChatTemplateError("the conversation is empty: give it a message")
        return self._template.render(messages, add_generation_prompt=add_generation_prompt, **options).text


def _source(folder: Path, settings: Mapping[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    try:
        source = path.read_text(encoding="utf-8") if path.is_file() else settings.get("chat_template")
    except UnicodeDecodeError as error:
        raise ChatTemplateError(f"{path} is not UTF-8 text: {error}") from None
    if isinstance(source, list):  # several named templates
        named = (entry for entry in source if isinstance(entry, dict))
        source = next((entry.get("template") for entry in named if entry.get("name") == "default"), None)
    if not isinstance(source, str):
        raise ChatTemplateError(
            f"{folder} has no chat template: its model was not trained to chat; use `generate` to continue text"
        )
    return source


def _token_text(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token)
