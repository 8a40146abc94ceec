"""The chat template of a bundle: which source, and which special tokens it may name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.bundle import Bundle, read_json
from runtime.errors import ChatTemplateError
from runtime.text.jinja_template import JinjaTemplate, Message
from runtime.text.special_tokens import read_special_tokens

__all__ = ["ChatTemplate", "JinjaTemplate", "Message"]

# Names of templates; the second is taken for conversations with tools, where there is one.
DEFAULT, TOOL_USE = "default", "tool_use"


class ChatTemplate:
    """The chat template of a bundle.

    Raises:
        ChatTemplateError: the bundle has none, or it does not parse.
        MissingDependencyError: jinja2 is not installed.
    """

    def __init__(self, bundle: Bundle) -> None:
        special_tokens = read_special_tokens(bundle.folder)
        self._templates = {
            name: JinjaTemplate(source, special_tokens) for name, source in _sources(bundle.folder).items()
        }

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> str:
        """The prompt for these messages. `JinjaTemplate.render` says what the options are, and what it raises."""
        if not messages:
            raise ChatTemplateError("the conversation is empty: give it a message")
        template = self._templates[DEFAULT]
        if tools is not None:
            template = self._templates.get(TOOL_USE, template)
        return template.render(messages, add_generation_prompt=add_generation_prompt, tools=tools, **options).text


def _sources(folder: Path) -> dict[str, str]:
    """The default template, and the one for tools where there is another."""
    path = folder / "chat_template.jinja"
    try:
        source = path.read_text(encoding="utf-8") if path.is_file() else None
    except UnicodeDecodeError as error:
        raise ChatTemplateError(f"{path} is not UTF-8 text: {error}") from None
    if source is None:
        source = read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(source, list):  # several named templates
        entries = [(entry.get("name"), entry.get("template")) for entry in source if isinstance(entry, dict)]
    else:
        entries = [(DEFAULT, source)]
    sources = {name: text for name, text in entries if name in (DEFAULT, TOOL_USE) and isinstance(text, str)}
    if DEFAULT not in sources:
        raise ChatTemplateError(
            f"{folder} has no chat template: its model was not trained to chat; use `generate` to continue text"
        )
    return sources
