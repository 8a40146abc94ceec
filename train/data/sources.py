"""Documents from sources: the built-in stories, text, JSONL and Parquet files, data sets on the Hub.

A document is a text, or a conversation: a list of messages, each with `role` and `content`. Documents are read one
after another, so a source may be larger than memory; only a text file that a regular expression cuts is read whole.
Lines of text files end in a line feed, however the file ends them.

Every reader is strict: content that cannot be read, and a row without the field, are errors that name file and line.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from train.data.config import STORIES, DataSection, SourceSection
from train.data.stories import stories
from train.errors import DataError

Conversation = list[dict[str, str]]
Document = str | Conversation

BLOCK_BYTES = 1 << 22
PARQUET_ROWS = 1024


def read_source(source: SourceSection, data: DataSection, seed: int) -> Iterator[Document]:
    """The documents of one source, in its order.

    Args:
        source: one of the recipe's sources.
        data: says where paths begin, and how many stories there are.
        seed: of the stories.

    Raises:
        DataError: it cannot be read, or holds no document.
    """
    count = 0
    for document in _documents(source, data, seed):
        if _characters(document) >= source.min_characters:
            count += 1
            yield document
    if not count:
        raise DataError(f"{source.name} holds no text" + _of_length(source))


def source_files(source: SourceSection, root: str) -> list[Path]:
    """The files of a source in order: its path, or what its path's wildcards match; none for stories and the Hub."""
    if source.path is None or source.path == STORIES:
        return []
    path = Path(root) / source.path
    if any(letter in source.path for letter in "*?["):
        above = Path(path.anchor or ".")
        return sorted(above.glob(str(path.relative_to(above))))
    return [path]


def _documents(source: SourceSection, data: DataSection, seed: int) -> Iterator[Document]:
    if source.hub is not None:
        yield from _read_hub(source)
    elif source.path == STORIES:
        yield from islice(stories(seed), data.documents)
    files = source_files(source, data.root)
    if source.path not in (None, STORIES) and not files:
        raise DataError(f"no file matches {Path(data.root) / str(source.path)}")
    for path in files:
        try:
            yield from _read_file(path, source)
        except OSError as error:  # gzip's errors have no strerror
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _read_file(path: Path, source: SourceSection) -> Iterator[Document]:
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix == ".parquet":
        return _read_parquet(path, source.field)
    if suffix in (".jsonl", ".ndjson"):
        return _read_json_lines(path, source.field)
    if source.separator_pattern is not None:
        return _read_text_by_pattern(path, source.separator_pattern)
    return _read_text(path, source.separator)


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _read_text(path: Path, separator: str) -> Iterator[str]:
    """Parts of a UTF-8 file between separators, space around them left out; a block at a time."""
    mark, rest, offset = separator.encode(), b"", 0
    with _open(path) as file:
        while block := file.read(BLOCK_BYTES):
            *parts, rest = (rest + block).split(mark)
            for part in parts:
                yield _decoded(part, path, offset)
                offset += len(part) + len(mark)
    yield _decoded(rest, path, offset)


def _read_text_by_pattern(path: Path, pattern: str) -> Iterator[str]:
    """Parts of a UTF-8 file between matches of a regular expression, space around them left out."""
    with _open(path) as file:
        text = _decoded(file.read(), path, 0)
    matches = re.finditer(pattern, text, re.MULTILINE)  # not re.split, which would also yield the pattern's groups
    start = 0
    for match in matches:
        yield text[start : match.start()].strip()
        start = match.end()
    yield text[start:].strip()


def _decoded(content: bytes, path: Path, offset: int) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file: the byte at {offset + error.start:,} is not UTF-8") from None
    if "\0" in text:
        raise DataError(f"{path} is not a text file: there is a zero byte at {offset + content.index(0):,}")
    return text.replace("\r\n", "\n").strip()


def _read_json_lines(path: Path, field: str) -> Iterator[Document]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _document(_json(line, path, number), field, f"{path}, line {number}")


def _json(line: bytes, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number} is not JSON: {error}") from None


def _read_parquet(path: Path, field: str) -> Iterator[Document]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path} is read with pyarrow: pip install -r requirements-extras.txt") from None
    try:
        with parquet.ParquetFile(path) as file:
            _check_field(file.schema_arrow.names, field, str(path))
            row = 0
            for batch in file.iter_batches(PARQUET_ROWS, columns=[field]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    yield _document({field: value}, field, f"{path}, row {row}")
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is cut off or is no Parquet file: {str(error).splitlines()[0]}") from None


def _read_hub(source: SourceSection) -> Iterator[Document]:
    """A data set as a stream: nothing is downloaded but what is read."""
    try:
        import datasets
    except ImportError:
        raise DataError(f"{source.hub} is read with datasets: pip install -r requirements-extras.txt") from None
    try:
        rows = datasets.load_dataset(str(source.hub), source.subset, split=source.split, streaming=True)
    except Exception as error:  # noqa: BLE001 - the library raises classes of many others
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"the data set {source.name} cannot be opened: {reason}") from None
    for number, row in enumerate(rows, start=1):
        yield _document(row, source.field, f"{source.name}, row {number}")


def _document(row: Any, field: str, where: str) -> Document:
    """The document in a row of fields. Raises DataError where it is not there, or is neither text nor messages."""
    if not isinstance(row, dict):
        raise DataError(f"{where} is not an object with a field {field!r}")
    _check_field(row, field, where)
    value = row[field]
    if isinstance(value, str):
        document: Document = value
    elif isinstance(value, list) and value and all(_is_message(message) for message in value):
        document = [{"role": message["role"], "content": message["content"]} for message in value]
    else:
        raise DataError(f"{where}: {field!r} is neither a text nor a list of messages with role and content")
    try:
        "".join(document if isinstance(document, str) else [message["content"] for message in document]).encode()
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair
        raise DataError(f"{where}: {field!r} is not valid Unicode") from None
    return document


def _check_field(fields: Iterable[str], field: str, where: str) -> None:
    fields = list(fields)
    if field not in fields:
        known = ", ".join(map(str, fields[:8])) or "none"
        raise DataError(f"{where} has no field {field!r} (set the source's field); there are: {known}")


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def _characters(document: Document) -> int:
    """How long a document is; blank ones have length 0."""
    if isinstance(document, str):
        return len(document) if document.strip() else 0
    return sum(len(message["content"]) for message in document)


def _of_length(source: SourceSection) -> str:
    return f" of {source.min_characters} characters or more" if source.min_characters > 1 else ""
