"""The same text without the page: a command line, and lines of Python."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.wishes import PageMessage
from runtime.cli.sampling_arguments import SPECIAL

STDIN = "-"  # what `--prompt` takes for stdin


@dataclass(frozen=True)
class Reproduction:
    """A text that was asked for on the page.

    Attributes:
        bundle: a folder or a Hub id.
        precision: of the weights.
        options: those of SamplingOptions that differ from the model's own.
        prompt: the text to continue, or the question.
        messages: a system message and the question, where they go through the chat template; else empty.
    """

    bundle: str
    precision: str
    options: Mapping[str, Any]
    prompt: str
    messages: Sequence[PageMessage] = ()

    def command_line(self) -> str:
        """A line for a POSIX shell that prints the text."""
        parts = ["python -m runtime generate", shlex.quote(self.bundle), "--precision", shlex.quote(self.precision)]
        if self.messages:
            parts.append("--chat")
            parts += [_argument("system", message.content) for message in self.messages if message.role == "system"]
        is_piped = self.prompt == STDIN
        if not is_piped:
            parts.append(_argument("prompt", self.prompt))
        for name, value in self.options.items():
            spelling = SPECIAL.get(name, (name.replace("_", "-"),))[0]
            values = value if isinstance(value, (list, tuple)) else [value]
            parts += [_argument(spelling, str(one)) for one in values]
        return " ".join(["printf %s - |", *parts] if is_piped else parts)

    def python_lines(self) -> str:
        """A script that prints what is new as it comes."""
        if self.messages:
            listed = "".join(f"    {message.model_dump()!r},\n" for message in self.messages)
            given, call = f"messages = [\n{listed}]\n", "chat(messages"
        else:
            given, call = f"prompt = {self.prompt!r}\n", "stream(prompt"
        changes = "".join(f"    {name}={value!r},\n" for name, value in self.options.items())
        return (
            "from dataclasses import replace\n\n"
            "from runtime import LanguageModel\n\n"
            f"model = LanguageModel.load({self.bundle!r}, precision={self.precision!r})\n"
            f"sampling = replace(\n    model.default_sampling,\n{changes})\n"
            f"{given}"
            f"for delta in model.{call}, sampling):\n"
            '    print(delta.text, end="", flush=True)\n'
        )


def _argument(name: str, value: str) -> str:
    """An option with its value; one that begins with a dash would be taken for another option."""
    return f"--{name}{'=' if value.startswith('-') else ' '}{shlex.quote(value)}"
