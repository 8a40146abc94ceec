"""Rows: the pieces of at most `context` predictions into which streams are cut, in one of four ways.

    packed      a row is the next `context` predictions, across documents; nothing is padded
    document    a row is one document, so that no token attends to another document; shorter rows are padded
    pairs       two rows of one document each, of which the first is the better answer
    isolated    packed, but each token attends to its own document alone, and positions start at 0 in each document

Every prediction is in exactly one row, with two exceptions: rows in which nothing is learned are dropped, and in
`document` rows nothing predicts the first token of a conversation. Imports no torch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from train.data.config import DOCUMENT
from train.data.streams import Stream


class Row(NamedTuple):
    """The predictions [begin, end) of a stream: its inputs are tokens[begin:end], its labels one further."""

    stream: Stream
    begin: int
    end: int


class Spans(Protocol):
    """The (begin, end) of each row of a stream."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> Sequence[int]: ...


class PackedSpans:
    """Consecutive spans of `context` predictions, computed on demand; the last may be shorter."""

    def __init__(self, predictions: int, context: int) -> None:
        self._predictions = predictions
        self._context = context

    def __len__(self) -> int:
        return (self._predictions + self._context - 1) // self._context

    def __getitem__(self, number: int) -> tuple[int, int]:
        begin = number * self._context
        return begin, min(begin + self._context, self._predictions)


class RowDataset:
    """All rows of some streams, by number.

    Args:
        streams: in order.
        context: the most predictions in a row.
        cut: "packed", "document" or "isolated".
    """

    def __init__(self, streams: Sequence[Stream], context: int, cut: str) -> None:
        self._streams = streams
        self._spans = [stream_spans(stream, context, cut) for stream in streams]
        self._starts = list(accumulate(map(len, self._spans), initial=0))  # one more than there are streams

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, number: int) -> Row:
        if not 0 <= number < len(self):
            raise IndexError(number)
        place = bisect_right(self._starts, number) - 1
        begin, end = self._spans[place][number - self._starts[place]]
        return Row(self._streams[place], int(begin), int(end))


class PairDataset:
    """The pairs of answers in some streams, by number. A row of each pair is the better answer, the other the worse.

    A document longer than the context is cut at its end; a pair of which nothing is learned on one side is left out.

    Args:
        streams: in order; their documents are better, worse, better, worse, ...
        context: the most predictions in a row.
    """

    def __init__(self, streams: Sequence[Stream], context: int) -> None:
        self._pairs = []
        for stream in streams:
            spans = stream.documents[: len(stream.documents) // 2 * 2].copy()
            spans[:, 1] = np.minimum(spans[:, 1], spans[:, 0] + context)
            learned = np.ones(len(stream.tokens), np.bool_) if stream.learned is None else stream.learned
            sound = (_learned_in(learned, spans).reshape(-1, 2) > 0).all(1)
            self._pairs += [(stream, pair) for pair in spans.reshape(-1, 2, 2)[sound]]

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, number: int) -> tuple[Row, Row]:
        stream, (better, worse) = self._pairs[number]
        return Row(stream, int(better[0]), int(better[1])), Row(stream, int(worse[0]), int(worse[1]))


def stream_spans(stream: Stream, context: int, cut: str) -> Spans:
    """The rows of one stream, as spans of predictions."""
    if cut == DOCUMENT:
        spans = _document_spans(stream.documents, context)
    elif stream.learned is None:
        return PackedSpans(stream.predictions, context)
    else:
        begins = np.arange(0, stream.predictions, context)
        spans = np.stack([begins, np.minimum(begins + context, stream.predictions)], axis=1)
    return spans if stream.learned is None else spans[_learned_in(stream.learned, spans) > 0]


def _document_spans(documents: NDArray[np.int64], context: int) -> NDArray[np.int64]:
    """One row per document, and several for a document longer than the context; int64 [rows, 2]."""
    begins, ends = documents[:, 0], documents[:, 1]
    pieces = -(-(ends - begins) // context)
    whose = np.repeat(np.arange(len(documents)), pieces)
    number = np.arange(len(whose)) - np.repeat(np.cumsum(pieces) - pieces, pieces)  # of a piece in its document
    first = begins[whose] + number * context
    return np.stack([first, np.minimum(first + context, ends[whose])], axis=1)


def _learned_in(learned: NDArray[np.bool_], spans: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of labels in each row that are learned; int64 [rows]."""
    before = np.concatenate([[0], np.cumsum(learned, dtype=np.int64)])  # learned tokens before each one
    return before[spans[:, 1] + 1] - before[spans[:, 0] + 1]
