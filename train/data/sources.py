"""Documents from sources: the built-in stories, text files, files of rows, data sets on the Hub.

Documents are read one after another, so a source may be larger than memory; only a JSON list, and a text file that a
regular expression cuts, are read whole. Lines of text files end in a line feed, however the file ends them.

Every reader is strict: content that cannot be read, and a row without the field, are errors that name file and line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from train.data.config import ALPACA, STORIES, DataSection, SourceSection
from train.data.documents import ALPACA_FIELDS, Document, Preference, from_alpaca, is_blank, read_document
from train.data.files import read_blocks
from train.data.stories import stories
from train.data.table_files import has_fields, read_rows
from train.errors import DataError

DEFAULT_FIELD = "text"
BYTE_ORDER_MARK = "\ufeff"
NO_STATE: Mapping[str, Any] = MappingProxyType({})


def read_source(source: SourceSection, data: DataSection, seed: int) -> Iterator[Document]:
    """The documents of one source, in its order.

    Args:
        source: one of the recipe's sources.
        data: says where paths begin, and how many stories there are.
        seed: of the stories.

    Raises:
        DataError: it cannot be read, or holds no document.
    """
    return iter(SourceReader(source, data, seed))


class SourceReader:
    """Reads a source once, from its start or from where another reader was.

    Args:
        source: one of the recipe's sources.
        data: says where paths begin, and how many stories there are.
        seed: of the stories.
        state: of the other reader, after the document it yielded last.
    """

    def __init__(
        self, source: SourceSection, data: DataSection, seed: int, state: Mapping[str, Any] = NO_STATE
    ) -> None:
        self._source, self._data, self._seed = source, data, seed
        self._rows, self._documents = state.get("rows", 0), state.get("documents", 0)
        self._hub_state = state.get("hub")
        self._hub: Any = None  # the data set being read

    def __iter__(self) -> Iterator[Document]:
        limit = self._source.max_documents
        if self._documents == limit:
            return
        for document in self._from_here():
            self._rows += 1
            if not is_blank(document) and len(document) >= self._source.min_characters:
                self._documents += 1
                yield document
                if self._documents == limit:
                    return
        if not self._documents:
            raise DataError(f"{self._source.name} holds no text" + _of_length(self._source))

    @property
    def state(self) -> dict[str, Any]:
        """Where the reader is, as JSON. From there a data set of the Hub goes on; files are read up to it again."""
        state = {"rows": self._rows, "documents": self._documents}
        hub = self._hub_state if self._hub is None else self._hub.state_dict()
        return state if hub is None else state | {"hub": hub}

    def _from_here(self) -> Iterator[Document]:
        if self._source.hub is None:
            return islice(_documents(self._source, self._data, self._seed), self._rows, None)
        self._hub = _open_hub(self._source)
        if self._hub_state is not None:
            self._hub.load_state_dict(self._hub_state)
        return (
            _document(row, f"{self._source.name}, row {number}", self._source)
            for number, row in enumerate(self._hub, start=self._rows + 1)
        )


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
    if source.path == STORIES:
        yield from islice(stories(seed), data.documents)
    files = source_files(source, data.root)
    if source.path != STORIES and not files:
        raise DataError(f"no file matches {Path(data.root) / str(source.path)}")
    for path in files:
        yield from _read_file(path, source)


def _read_file(path: Path, source: SourceSection) -> Iterator[Document]:
    if has_fields(path):
        for where, row in read_rows(path, _fields(source)):
            yield _document(row, where, source)
    elif source.field is not None or source.format is not None:
        raise DataError(
            f"{path} is read as plain text, which has no field {source.field or source.format!r}: leave out the "
            "source's field or format, or give the file the suffix of its format: .jsonl, .json, .csv, .tsv, .parquet"
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


def _fields(source: SourceSection) -> list[str]:
    """The fields that are read of a row."""
    if source.format == ALPACA:
        return list(ALPACA_FIELDS)
    named = (source.field or DEFAULT_FIELD, source.prompt_field, source.rejected_field, "tools")
    return [name for name in named if name is not None]


def _open_hub(source: SourceSection) -> Any:
    """A data set as a stream of rows: nothing is downloaded but what is read."""
    try:
        import datasets
    except ImportError:
        raise DataError(f"{source.hub} is read with datasets: pip install -r requirements-extras.txt") from None
    try:
        return datasets.load_dataset(str(source.hub), source.subset, split=source.split, streaming=True)
    except Exception as error:  # noqa: BLE001 - the library raises classes of many others
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"the data set {source.name} cannot be opened: {reason}") from None


def _document(row: object, where: str, source: SourceSection) -> Document:
    if source.format == ALPACA:
        row = from_alpaca(row, where)
    read = partial(
        read_document,
        row,
        where,
        prompt_field=source.prompt_field,
        ignored_keys=source.ignored_keys,
        roles=source.roles,
    )
    document = read(field="messages" if source.format == ALPACA else source.field or DEFAULT_FIELD)
    if source.rejected_field is None:
        return document
    return Preference(document, read(field=source.rejected_field))


def _of_length(source: SourceSection) -> str:
    return f" of {source.min_characters} characters or more" if source.min_characters > 1 else ""
