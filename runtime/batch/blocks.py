"""Pieces of an input that are read where they are computed, so that lines need not travel."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.batch.lines import InputLine, is_empty, parse_line
from runtime.batch.parquet_input import ParquetInput, is_parquet


@dataclass(frozen=True)
class Block:
    """Requests that follow each other in a file.

    Attributes:
        number: of the first line, from 1.
        index: of the first request, from 0.
        start, end: where they lie: bytes of JSON lines, rows of Parquet.
    """

    number: int
    index: int
    start: int
    end: int


def split(path: str, first: int, size: int) -> Iterator[Block]:
    """The requests of a file from index `first` on, `size` to a block but for the last.

    Raises:
        OSError, PromptError: the file cannot be read.
    """
    if is_parquet(path):
        with ParquetInput(Path(path)) as rows:
            for start in range(first, rows.count, size):
                yield Block(start + 1, start, start, min(start + size, rows.count))
        return
    place = index = count = 0
    begins: tuple[int, int, int] | None = None  # number, index and place of a block's first line
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not is_empty(line):
                if index >= first:
                    if begins is not None and count == size:
                        yield Block(*begins, place)
                        begins, count = None, 0
                    begins = begins or (number, index, place)
                    count += 1
                index += 1
            place += len(line)
    if begins is not None:
        yield Block(*begins, place)


def read_block(path: str, block: Block) -> Iterator[InputLine]:
    """The requests of a block."""
    if is_parquet(path):
        with ParquetInput(Path(path)) as rows:
            for line in rows.lines(block.start):
                if line.index >= block.end:
                    return
                yield line
        return
    with Path(path).open("rb") as file:
        file.seek(block.start)
        place, index, number = block.start, block.index, block.number
        while place < block.end:
            written = file.readline()
            place += len(written)
            if not is_empty(written):
                content = written.removeprefix(codecs.BOM_UTF8) if number == 1 else written
                yield parse_line(content, number=number, index=index)
                index += 1
            number += 1
