"""Documents from sources: the built-in stories, text files, files of rows, data sets on the Hub.

Documents are read one after another, so a source may be larger than memory; only a JSON list, and a text file that a
regular expression cuts, are read whole. Lines of text files end in a line feed, however the file ends them.

Every reader is strict: content that cannot be read, and a row without the field, are errors that name file and line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from train.data.config import STORIES, DataSection, SourceSection
from train.data.documents import Document, is_blank, read_document
from train.data.files import read_blocks
from train.data.stories import stories
from train.data.table_files import has_fields, read_rows
from train.errors import DataError

DEFAULT_FIELD = "text"
BYTE_ORDER_MARK = "\ufeff"


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
        if not is_blank(document) and len(document) >= source.min_characters:
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
        yield from _read_file(path, source)


def _read_file(path: Path, source: SourceSection) -> Iterator[Document]:
    if has_fields(path):
        wanted = [name for name in (source.field or DEFAULT_FIELD, source.prompt_field, "tools") if name is not None]
        for where, row in read_rows(path, wanted):
            yield _document(row, where, source)
    elif source.field is not None:
        raise DataError(
            f"{path} is read as plain text, which has no field {source.field!r}: leave out the source's field, or give "
            "the file the suffix of its format (.jsonl, .json, .csv, .tsv or .parquet)"
        )
    elif source.separator_pattern is not None:
        yield from _read_text_by_pattern(path, source.separator_pattern)
    else:
        yield from _read_text(path, source.separator)


def _read_text(path: Path, separator: str) -> Iterator[str]:
    """Parts of a UTF-8 file between separators, space around them left out; a block at a time."""
    mark, rest, offset = separator.encode(), b"", 0
    for block in read_blocks(path):
        *parts, rest = (rest + block).split(mark)
        for part in parts:
            yield _decoded(part, path, offset)
            offset += len(part) + len(mark)
    yield _decoded(rest, path, offset)


def _read_text_by_pattern(path: Path, pattern: str) -> Iterator[str]:
    """Parts of a UTF-8 file between matches of a regular expression, space around them left out."""
    text = _decoded(b"".join(read_blocks(path)), path, 0)
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
    if offset == 0:
        text = text.removeprefix(BYTE_ORDER_MARK)
    return text.replace("\r\n", "\n").strip()


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
        yield _document(row, f"{source.name}, row {number}", source)


def _document(row: object, where: str, source: SourceSection) -> Document:
    return read_document(
        row,
        where,
        field=source.field or DEFAULT_FIELD,
        prompt_field=source.prompt_field,
        ignored_keys=source.ignored_keys,
    )


def _of_length(source: SourceSection) -> str:
    return f" of {source.min_characters} characters or more" if source.min_characters > 1 else ""
