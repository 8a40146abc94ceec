"""Endless rows of sources, one after another: of a source that is read meanwhile, or of one that is tokenized already.

A source that is read meanwhile may be larger than the disk. Its rows pass through a buffer, and the next row is drawn
from all rows in there. Which one is drawn depends on the seed and the number of rows drawn before. So the place of the
reader, the rows in the buffer and a few counts are all that a resumed run needs to go on with the very next row.

Imports no torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from train.data.config import DataSection, SourceSection
from train.data.documents import Document
from train.data.mixture import Mixture, hash_numbers
from train.data.rows import Row, RowDataset
from train.data.sources import SourceReader
from train.data.split import is_held_out
from train.data.streams import NONE_SKIPPED, Stream, StreamEncoder
from train.errors import DataError

# Documents are tokenized together up to this size; the last row of each such group may be short.
GROUP_CHARACTERS = 1 << 20

Arrays = dict[str, NDArray[Any]]


class RowSource(Protocol):
    """Rows without end, and the state from which another such object goes on."""

    def next_row(self) -> Row:
        """The next row."""
        ...

    def state(self) -> tuple[dict[str, Any], Sequence[Row]]:
        """Counts and places, as JSON, and rows that were read and not yet drawn."""
        ...

    def load(self, counts: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Go on from the state of another one."""
        ...


class TokenizedRows:
    """The rows of a source that is tokenized already, shuffled anew in each epoch."""

    def __init__(self, rows: RowDataset, seed: int) -> None:
        self._rows = rows
        self._order = Mixture([len(rows)], [len(rows)], seed)
        self._draws = 0

    def next_row(self) -> Row:
        """The next row."""
        _, number = self._order[self._draws]
        self._draws += 1
        return self._rows[number]

    def state(self) -> tuple[dict[str, Any], Sequence[Row]]:
        """The number of rows drawn."""
        return {"draws": self._draws}, []

    def load(self, counts: Mapping[str, Any], rows: Sequence[Row]) -> None:  # noqa: ARG002 - there are none
        """Go on from the state of another one."""
        self._draws = counts["draws"]


class StreamedRows:
    """The rows of a source that is read meanwhile, and again from its start when it ends.

    Args:
        source: where to read; its limits end an epoch.
        data: how rows are cut, what is held out, and the size of the buffer.
        encoder: of documents.
        seed: of the stories.
        order_seed: of the rows that are drawn.

    Raises:
        DataError: while it reads, where a document is broken or the source has nothing to learn from.
    """

    def __init__(
        self, source: SourceSection, data: DataSection, encoder: StreamEncoder, seed: int, order_seed: int
    ) -> None:
        self._source, self._data, self._encoder = source, data, encoder
        self._seed, self._order_seed = seed, order_seed
        self._draws = 0
        self._epoch_rows = self._epoch_tokens = 0  # cut, and to learn, since the source was begun
        self._skipped = NONE_SKIPPED
        self._ready: deque[Row] = deque()  # cut and not yet in the buffer
        self._buffer: list[Row] = []
        self._begin({})

    def next_row(self) -> Row:
        """The next row; reads as much of the source as fills the buffer."""
        buffer = self._buffer
        while len(buffer) < self._data.shuffle_rows:
            while not self._ready:
                self._read_group()
            buffer.append(self._ready.popleft())
        place = hash_numbers(self._order_seed, self._draws) % len(buffer)
        self._draws += 1
        buffer[place], buffer[-1] = buffer[-1], buffer[place]
        return buffer.pop()

    def state(self) -> tuple[dict[str, Any], Sequence[Row]]:
        """The reader's place and the counts; the rows of the buffer and those that follow it."""
        counts = {
            "reader": self._reader.state,
            "draws": self._draws,
            "epoch_rows": self._epoch_rows,
            "epoch_tokens": self._epoch_tokens,
            "buffered": len(self._buffer),
        }
        return counts, [*self._buffer, *self._ready]

    def load(self, counts: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Go on from the state of another one."""
        self._begin(counts["reader"])
        self._draws, self._epoch_rows, self._epoch_tokens = (
            counts[name] for name in ("draws", "epoch_rows", "epoch_tokens")
        )
        self._buffer = list(rows[: counts["buffered"]])
        self._ready = deque(rows[counts["buffered"] :])

    def _begin(self, reader_state: Mapping[str, Any]) -> None:
        self._reader = SourceReader(self._source, self._data, self._seed, reader_state)
        self._documents: Iterator[Document] = iter(self._reader)

    def _read_group(self) -> None:
        """Cut the rows of the next documents. At the end of the source, or at its limit, begin it anew."""
        group, characters = [], 0
        for document in self._documents:
            group.append(document)
            characters += len(document)
            if characters >= GROUP_CHARACTERS:
                break
        share, limit = self._data.held_out_share, self._source.max_tokens
        stream = self._encoder.encode(one for one in group if not is_held_out(one, share))
        self._skipped += self._encoder.pop_skipped()
        is_last = characters < GROUP_CHARACTERS
        if limit is not None and self._epoch_tokens + stream.learnable >= limit:
            stream, is_last = stream.first_learned(limit - self._epoch_tokens), True
        rows = RowDataset([stream], self._data.context, self._data.rows)
        self._ready.extend(own_row(rows[number]) for number in range(len(rows)))
        self._epoch_rows += len(rows)
        self._epoch_tokens += stream.learnable
        if is_last:
            if not self._epoch_rows:
                why = f"; {self._skipped}" if self._skipped.count else ""
                raise DataError(f"{self._source.name} has nothing to train on{why}")
            self._epoch_rows = self._epoch_tokens = 0
            self._begin({})


def own_row(row: Row) -> Row:
    """The same row in a stream that holds nothing else, so that a buffer of rows keeps no whole streams in memory."""
    stream, begin, end = row
    inside = (stream.documents[:, 0] < end) & (stream.documents[:, 1] > begin)
    documents = np.clip(stream.documents[inside] - begin, 0, end - begin)
    learned = None if stream.learned is None else stream.learned[begin : end + 1].copy()
    return Row(Stream(stream.tokens[begin : end + 1].copy(), documents, learned), 0, end - begin)


def learned_in(row: Row) -> int:
    """The number of tokens to learn in a row."""
    if row.stream.learned is None:
        return row.end - row.begin
    return int(np.count_nonzero(row.stream.learned[row.begin + 1 : row.end + 1]))


def pack_rows(rows: Sequence[Row]) -> Arrays:
    """Rows as arrays to save: their streams one after another, and the length of each."""
    streams = [own_row(row).stream for row in rows]
    nothing = np.zeros(0, np.int64)
    all_learned = [np.ones(len(one.tokens), np.bool_) if one.learned is None else one.learned for one in streams]
    return {
        "tokens": np.concatenate([one.tokens for one in streams]) if streams else nothing,
        "learned": np.concatenate(all_learned) if streams else nothing.astype(np.bool_),
        "documents": np.concatenate([one.documents for one in streams]) if streams else nothing.reshape(0, 2),
        "lengths": np.array([len(one.tokens) for one in streams], np.int64),
        "document_counts": np.array([len(one.documents) for one in streams], np.int64),
    }


def unpack_rows(arrays: Mapping[str, NDArray[Any]]) -> list[Row]:
    """The rows that `pack_rows` was given."""
    ends, document_ends = np.cumsum(arrays["lengths"])[:-1], np.cumsum(arrays["document_counts"])[:-1]
    if not len(arrays["lengths"]):
        return []
    parts = zip(
        np.split(arrays["tokens"], ends),
        np.split(arrays["documents"], document_ends),
        np.split(arrays["learned"], ends),
        strict=True,
    )
    return [
        Row(Stream(tokens, documents, None if learned.all() else learned), 0, len(tokens) - 1)
        for tokens, documents, learned in parts
    ]
