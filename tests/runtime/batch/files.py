"""Files of lines for batches."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runtime.batch.lines import InputLine, parse_line


def write_lines(path: Path, records: Iterable[Any]) -> Path:
    """A file with a line for each record; what is text or bytes stands as it is."""
    path.write_bytes(b"".join(_line(record) + b"\n" for record in records))
    return path


def input_lines(records: Iterable[Any]) -> list[InputLine]:
    """The same lines, read."""
    return [parse_line(_line(record), number=index + 1, index=index) for index, record in enumerate(records)]


def read_lines(text: str | bytes) -> list[dict[str, Any]]:
    """The objects of an output, which U+2028 does not divide."""
    data = text.encode() if isinstance(text, str) else text
    return [json.loads(line) for line in data.split(b"\n") if line]


def _line(record: Any) -> bytes:
    if isinstance(record, bytes):
        return record
    return (record if isinstance(record, str) else json.dumps(record)).encode()
