"""The input of a batch: JSON lines from a file, a pipe or stdin, or the rows of a Parquet file."""

from __future__ import annotations

import codecs
import hashlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, Self

from runtime.batch.lines import InputLine, is_empty, parse_line
from runtime.batch.parquet_input import ParquetInput, is_parquet
from runtime.errors import PromptError

PIECE_BYTES = 2**20


class BatchInput(Protocol):
    """Lines that can be read again from any place.

    Attributes:
        count: requests, empty lines left out.
        sha256: of all bytes.
    """

    count: int
    sha256: str

    def lines(self, start: int = 0) -> Iterator[InputLine]:
        """The requests from index `start` on."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def open_input(path: str) -> BatchInput:
    """The lines of a file, of stdin for "-", or the rows of a `.parquet`.

    Raises:
        PromptError: it cannot be read.
        MissingDependencyError: Parquet without pyarrow.
    """
    if is_parquet(path):
        return ParquetInput(Path(path))
    return JsonLinesInput(path)


class JsonLinesInput:
    """A JSON object a line. Lines end at a line feed alone: U+2028 may stand in a JSON text.

    Args:
        path: of a file; "-" for stdin. What cannot be read twice is copied to a temporary file.
    """

    def __init__(self, path: str) -> None:
        try:
            self._file = _seekable(path)
        except OSError as error:
            raise PromptError(f"{path} cannot be read: {error.strerror}") from None
        digest, self.count = hashlib.sha256(), 0
        for line in self._file:
            digest.update(line)
            self.count += not is_empty(line)
        self.sha256 = digest.hexdigest()

    def lines(self, start: int = 0) -> Iterator[InputLine]:
        """The requests from index `start` on."""
        self._file.seek(0)
        index = 0
        for number, line in enumerate(self._file, start=1):
            if is_empty(line):
                continue
            if index >= start:
                content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                yield parse_line(content, number=number, index=index)
            index += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _seekable(path: str) -> BinaryIO:
    if path == "-":
        return _copied(sys.stdin.buffer)
    if Path(path).is_file() or Path(path).is_dir():
        return Path(path).open("rb")
    with Path(path).open("rb") as pipe:
        return _copied(pipe)


def _copied(pipe: BinaryIO) -> BinaryIO:
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - closed by whom it is given to
    while piece := pipe.read(PIECE_BYTES):
        copy.write(piece)
    copy.seek(0)
    return copy
