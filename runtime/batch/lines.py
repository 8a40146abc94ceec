"""One line in and one line out: JSON objects, of which the output repeats the input and adds what was generated."""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from typing import Any, Protocol

# What the output adds, in this order; a line of the input may not have a key of these names.
RESULT_KEYS = (
    "completion",
    "token_ids",
    "finish_reason",
    "prompt_tokens",
    "new_tokens",
    "logprobs",
    "line",
    "error",
)
JSON_WHITESPACE = " \t\r\n"


@dataclass(frozen=True)
class InputLine:
    """A line of the input.

    Attributes:
        number: of the line in its file, from 1; of the row in a Parquet file.
        index: of the request, from 0; empty lines do not count.
        text: the JSON object as it was written; "{}" where the line is not one.
        record: the same, parsed.
        error: why the line is not a JSON object, or None.
    """

    number: int
    index: int
    text: str
    record: dict[str, Any]
    error: str | None = None


@dataclass(frozen=True)
class LineResult:
    """What became of a line.

    Attributes:
        line: the line.
        added: keys and values that the output adds; a failed line adds `line` and `error`.
    """

    line: InputLine
    added: dict[str, Any]

    @property
    def failed(self) -> bool:
        """Whether there is no completion."""
        return "error" in self.added

    def to_bytes(self) -> bytes:
        """The line of the output, with its line feed, in UTF-8.

        The text of the input is copied rather than written anew, so that numbers and escapes stay as they were.
        """
        record, added = self.line.record, json.dumps(self.added, ensure_ascii=False)
        if record.keys() & self.added.keys():  # a failed line, which has our keys
            record = {key: value for key, value in record.items() if key not in self.added}
            text = json.dumps(record)
        else:
            text = self.line.text
        joined = text.rstrip(JSON_WHITESPACE)[:-1] + (", " if record else "") + added[1:]
        # Half of a surrogate pair has no UTF-8. Its escape is the same in Python and JSON.
        return joined.encode("utf-8", "backslashreplace") + b"\n"


class Result(Protocol):
    """A line of the output."""

    @property
    def failed(self) -> bool:
        """Whether there is no completion."""

    def to_bytes(self) -> bytes:
        """The line, with its line feed, in UTF-8."""


@dataclass(frozen=True)
class FinishedLine:
    """A line of the output as another process wrote it."""

    content: bytes
    failed: bool

    def to_bytes(self) -> bytes:
        """The line, with its line feed, in UTF-8."""
        return self.content


def is_empty(line: bytes) -> bool:
    """Whether a line holds no request."""
    return not line.removeprefix(codecs.BOM_UTF8).strip(JSON_WHITESPACE.encode())


def parse_line(line: bytes, *, number: int, index: int) -> InputLine:
    """A line of JSON; what is wrong with it is its `error`."""
    try:
        text = line.decode("utf-8").strip(JSON_WHITESPACE)
        record = json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        return bad_line(number, index, f"not UTF-8 text: {error.reason} at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        return bad_line(number, index, f"not JSON: {error.msg} at character {error.pos + 1}")
    except (ValueError, RecursionError) as error:
        return bad_line(number, index, f"not JSON: {error}")
    if not isinstance(record, dict):
        return bad_line(number, index, 'not a JSON object: write {"prompt": TEXT} or {"messages": [...]}')
    return InputLine(number, index, text, record)


def bad_line(number: int, index: int, error: str) -> InputLine:
    """A line that holds no request."""
    return InputLine(number, index, "{}", {}, error)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it has no {name}")
