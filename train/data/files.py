"""Opening files by their compression and reading them in blocks or lines; every fault is one line that says where.

The standard library decompresses .gz, .bz2 and .xz. Reading .zst needs the package zstandard.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from train.errors import DataError

BLOCK_BYTES = 1 << 22
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError)


def suffixes(path: Path) -> tuple[str, str]:
    """The suffix of a file's format and that of its compression, in lower case: `c4.JSON.gz` has .json and .gz."""
    *_, last = ["", *(suffix.lower() for suffix in path.suffixes)]
    if last not in OPENERS:
        return last, ""
    return Path(path.stem).suffix.lower(), last


@contextmanager
def open_source(path: Path) -> Iterator[IO[bytes]]:
    """A file for reading, decompressed.

    Raises:
        DataError: it cannot be opened, or zstandard is needed and not installed. Reads raise one of `BROKEN`.
    """
    try:
        file = OPENERS.get(suffixes(path)[1], _open_plain)(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    with file:
        yield file


def read_blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a file in blocks. Raises DataError, which says after how many bytes it is broken."""
    offset = 0
    with open_source(path) as file:
        while True:
            try:
                block = file.read(BLOCK_BYTES)
            except BROKEN as error:
                raise DataError(broken(f"{path}, after {offset:,} bytes", error)) from None
            if not block:
                return
            offset += len(block)
            yield block


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file and their numbers from 1; only a line feed ends a line. Raises DataError with the line."""
    number = 1
    with open_source(path) as file:
        lines = iter(file)
        while True:
            try:
                line = next(lines, None)
            except BROKEN as error:
                raise DataError(broken(f"{path}, line {number}", error)) from None
            if line is None:
                return
            yield number, line
            number += 1


def broken(where: str, error: BaseException) -> str:
    """The message for a file that one of `BROKEN` was raised from."""
    if isinstance(error, OSError) and error.strerror:
        return f"{where}: cannot be read: {error.strerror}"
    return f"{where}: the compressed file is truncated or corrupt: {' '.join(str(error).split())}"


def _open_plain(path: Path) -> IO[bytes]:
    return path.open("rb")


def _open_zstd(path: Path) -> IO[bytes]:
    try:
        import zstandard
    except ImportError:
        raise DataError(f"{path} is read with zstandard: pip install zstandard, or decompress the file") from None
    return io.BufferedReader(_ZstdReader(path, zstandard), BLOCK_BYTES)


class _ZstdReader(io.RawIOBase):
    """A decompressor that raises EOFError at the end of a truncated file, where the package's own reader just ends."""

    def __init__(self, path: Path, zstandard: Any) -> None:
        self._file = path.open("rb")
        self._make = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj
        self._error = zstandard.ZstdError
        self._frame: Any = None  # the frame being read, if there is one
        self._compressed, self._text = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._text:
            if not self._fill():
                return 0
        size = min(len(buffer), len(self._text))
        buffer[:size] = self._text[:size]
        self._text = self._text[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()

    def _fill(self) -> bool:
        """Decompress the next piece. Returns False at the end of the file."""
        self._compressed = self._compressed or self._file.read(BLOCK_BYTES >> 5)
        if not self._compressed:
            if self._frame is not None:
                raise EOFError("the last frame is not complete")
            return False
        self._frame = self._frame or self._make()
        try:
            self._text = memoryview(self._frame.decompress(self._compressed))
        except self._error as error:
            raise OSError(str(error)) from None
        self._compressed = self._frame.unused_data if self._frame.eof else b""
        if self._frame.eof:  # another frame may follow
            self._frame = None
        return True


OPENERS: dict[str, Callable[[Path], IO[bytes]]] = {
    ".gz": gzip.open,  # type: ignore[dict-item]
    ".bz2": bz2.open,  # type: ignore[dict-item]
    ".xz": lzma.open,  # type: ignore[dict-item]
    ".zst": _open_zstd,
}
