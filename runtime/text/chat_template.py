"""Messages to a prompt, by the tokenizer's own Jinja template, in a sandbox.

Templates come from strangers: they run in `template_sandbox.py`, and see the same few names as in transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from runtime.bundle import Bundle, read_json
from runtime.errors import ChatTemplateError
from runtime.text.template_sandbox import bounded_filter, make_environment, render

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": text}


class ChatTemplate:
    """The chat template of a bundle.

    Raises:
        ChatTemplateError: the bundle has none, or it does not parse.
        MissingDependencyError: jinja2 is not installed.
    """

    def __init__(self, bundle: Bundle) -> None:
        settings = read_json(bundle.folder / "tokenizer_config.json")
        self._tokens = {
            name: _token_text(settings[name]) for name in ("bos_token", "eos_token", "pad_token") if settings.get(name)
        }
        self._template = _compile(_source(bundle, settings))

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The prompt for these messages. Raises ChatTemplateError where the template refuses them."""
        names = {
            "messages": [dict(message) for message in messages],
            "tools": None,  # there, though none: templates ask `tools is not none`
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **self._tokens,
        }
        try:
            return render(self._template, names)
        except ChatTemplateError:
            raise
        except Exception as error:  # noqa: BLE001 - a stranger's template may raise anything
            raise ChatTemplateError(f"the chat template fails on these messages: {error}") from None


def _source(bundle: Bundle, settings: Mapping[str, Any]) -> str:
    path = bundle.folder / "chat_template.jinja"
    try:
        source = path.read_text(encoding="utf-8") if path.is_file() else settings.get("chat_template")
    except UnicodeDecodeError as error:
        raise ChatTemplateError(f"{path} is not UTF-8 text: {error}") from None
    if isinstance(source, list):  # several named templates
        named = (entry for entry in source if isinstance(entry, dict))
        source = next((entry.get("template") for entry in named if entry.get("name") == "default"), None)
    if not isinstance(source, str):
        raise ChatTemplateError(
            f"{bundle.folder} has no chat template: its model was not trained to chat; use `generate` to continue text"
        )
    return source


def _compile(source: str) -> Any:
    environment = make_environment()
    from jinja2 import TemplateError

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    def strftime_now(layout: str) -> str:
        return datetime.now().astimezone().strftime(layout)

    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    environment.filters["tojson"] = bounded_filter("tojson", to_json)
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise ChatTemplateError(f"the chat template does not parse: {error}") from None


def _token_text(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token)
