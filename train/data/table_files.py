"""Rows from files that have fields: JSON lines, JSON lists, CSV, TSV and Parquet.

A format is told by its suffix. All but a JSON list are read row by row, so a file may be larger than memory.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from train.data.files import BROKEN, broken, open_source, read_blocks, read_lines, suffixes
from train.errors import DataError

PARQUET_ROWS = 1024
LONGEST_CELL = (1 << 31) - 1  # of CSV; Python's default is 131,072 characters

Rows = Iterator[tuple[str, Any]]  # where a row stands, for messages, and the row


def has_fields(path: Path) -> bool:
    """Whether the suffix of a file is that of a format with fields."""
    return suffixes(path)[0] in _READERS


def read_rows(path: Path, fields: Sequence[str]) -> Rows:
    """The rows of a file, and where each one stands.

    Args:
        path: `has_fields` is true of it.
        fields: the ones needed; of a Parquet file only these are read.

    Raises:
        DataError: the file is broken or not of its suffix's format.
    """
    return _READERS[suffixes(path)[0]](path, fields)


def _json_lines(path: Path, _fields: Sequence[str]) -> Rows:
    for number, line in read_lines(path):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _json(line, where)


def _json_file(path: Path, fields: Sequence[str]) -> Rows:
    """A list of rows, or else one row per line."""
    with open_source(path) as file:
        try:
            start = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()
        except BROKEN as error:
            raise DataError(broken(f"{path}, line 1", error)) from None
    if not start.startswith(b"["):
        yield from _json_lines(path, fields)
        return
    for number, row in enumerate(_json(b"".join(read_blocks(path)), str(path)), start=1):
        yield f"{path}, item {number}", row


def _json(text: bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise DataError(f"{where} is not JSON that can be read: it is nested too deeply") from None
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}") from None


def _csv(path: Path, _fields: Sequence[str]) -> Rows:
    csv.field_size_limit(LONGEST_CELL)
    with open_source(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        reader = csv.reader(text, delimiter="\t" if suffixes(path)[0] == ".tsv" else ",", strict=True)
        names: list[str] = []
        while (cells := _next_cells(reader, path)) is not None:
            if not names:
                names = cells
            elif len(cells) == len(names):
                yield f"{path}, line {reader.line_num}", dict(zip(names, cells, strict=True))
            elif cells:
                raise DataError(f"{path}, line {reader.line_num} has {len(cells)} cells, the first line {len(names)}")


def _next_cells(reader: Any, path: Path) -> list[str] | None:
    """The cells of the next row; none of a blank line, None at the end."""
    number = reader.line_num + 1
    try:
        return next(reader, None)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {number} or after is not UTF-8: {error.reason}") from None
    except csv.Error as error:
        raise DataError(f"{path}, line {number} is not CSV: {error}") from None
    except BROKEN as error:
        raise DataError(broken(f"{path}, line {number}", error)) from None


def _parquet(path: Path, fields: Sequence[str]) -> Rows:
    if suffixes(path)[1]:
        raise DataError(f"{path} is a Parquet file in another compression: decompress it")
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path} is read with pyarrow: pip install -r requirements-extras.txt") from None
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = [name for name in fields if name in names]
            number = 0
            for batch in file.iter_batches(PARQUET_ROWS, columns=columns or names):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row if columns else dict.fromkeys(names)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is truncated or not a Parquet file: {str(error).splitlines()[0]}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or str(error).splitlines()[0]}") from None


_READERS: dict[str, Callable[[Path, Sequence[str]], Rows]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_file,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
