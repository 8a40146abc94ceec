"""Logits of a model at some positions, with what is derived from them once and read by every measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TypeVar

import numpy as np

from runtime.engine.threads import default_threads

# Rows that a thread takes at a time. Its scratch arrays are made once for them: memory fresh from the system costs more
# than the arithmetic in it.
SPAN_ROWS = 64
# Numbers of a block that is worked on at once, so that a few arrays of it stay in a core's cache of level 2: a row of
# 49,152 float32 numbers is 192 KB.
BLOCK_NUMBERS = 49_152
TOP = 5
# A row's likeliest tokens are looked for in columns of this many numbers.
COLUMN = 64
Result = TypeVar("Result")


class Logits:
    """Logits, and their normalizers and likeliest tokens, computed when first asked for.

    Args:
        values: float32 [positions, vocab_size].
        threads: for the arithmetic; None for `default_threads()`.
    """

    def __init__(self, values: np.ndarray, *, threads: int | None = None) -> None:
        self.values = values
        self.threads = default_threads() if threads is None else threads

    @property
    def normalizers(self) -> np.ndarray:
        """float64 [positions]: the logarithm of the sum of exp(logits), to 1e-6."""
        return self._derived[0]

    @property
    def top(self) -> np.ndarray:
        """int64 [positions, 5 or vocab_size if less]: the likeliest tokens, in no order."""
        return self._derived[1]

    @property
    def likeliest(self) -> np.ndarray:
        """int64 [positions]: the likeliest token."""
        return self._derived[2]

    @property
    def likeliest_nats(self) -> np.ndarray:
        """float64 [positions]: the negative log-probability of the likeliest token."""
        return self.nats(self.likeliest)

    def nats(self, token_ids: np.ndarray) -> np.ndarray:
        """float64 [positions]: the negative log-probability of one token at each position, int64 [positions]."""
        nats: np.ndarray = self.normalizers - np.take_along_axis(self.values, token_ids[:, None], axis=1)[:, 0]
        return nats

    @property
    def largest(self) -> float:
        """The largest magnitude of a logit."""
        return float(self._derived[3].max(initial=0))

    @cached_property
    def _derived(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Normalizers, likeliest tokens, the likeliest, and the largest magnitude: all in one pass over memory."""
        normalizers = np.empty(len(self.values))
        top = np.empty((len(self.values), min(TOP, self.values.shape[-1])), np.int64)
        likeliest = np.empty(len(self.values), np.int64)
        magnitudes = np.empty(len(self.values), np.float32)

        def derive(span: slice) -> None:
            vocab_size = self.values.shape[-1]
            scratch = np.empty((block_rows(vocab_size), vocab_size), np.float32)
            maxima = []
            for block in blocks(span, vocab_size):
                values, shifted = self.values[block], scratch[: block.stop - block.start]
                maxima.append(_column_maxima(values))
                likeliest[block] = values.argmax(-1)
                largest = np.take_along_axis(values, likeliest[block, None], axis=1)
                magnitudes[block] = np.maximum(largest[:, 0], -values.min(-1))
                np.exp(np.subtract(values, largest, out=shifted), out=shifted)
                normalizers[block] = largest[:, 0] + np.log(shifted.sum(-1).astype(np.float64))
            top[span] = _top_tokens(self.values[span], np.concatenate(maxima))

        in_spans(derive, len(self.values), self.threads)
        return normalizers, top, likeliest, magnitudes


def _column_maxima(values: np.ndarray) -> np.ndarray:
    """The largest number of each column, where a row is written as a table of `COLUMN` lines.

    Token `line * columns + column` stands in that line and column; the last few tokens fill no line.

    Args:
        values: float32 [rows, vocab_size].

    Returns:
        float32 [rows, columns].
    """
    columns = values.shape[-1] // COLUMN
    maxima: np.ndarray = values[:, : columns * COLUMN].reshape(len(values), COLUMN, columns).max(1)
    return maxima


def _top_tokens(values: np.ndarray, maxima: np.ndarray) -> np.ndarray:
    """The indices of the five largest numbers of each row, in no order.

    They stand in the five columns whose largest numbers are largest, or among the few tokens in no column: so little is
    left to sort.

    Args:
        values: float32 [rows, vocab_size].
        maxima: of its columns.

    Returns:
        int64 [rows, 5 or vocab_size if less].
    """
    (rows, vocab_size), columns = values.shape, maxima.shape[-1]
    top = min(TOP, vocab_size)
    if columns <= top:
        return np.argpartition(values, -top)[:, -top:]
    best = np.argpartition(maxima, -top)[:, -top:]
    tokens = (best[:, None] + columns * np.arange(COLUMN)[:, None]).reshape(rows, -1)
    rest = np.arange(columns * COLUMN, vocab_size)
    tokens = np.concatenate([tokens, np.broadcast_to(rest, (rows, len(rest)))], axis=1)
    chosen = np.argpartition(np.take_along_axis(values, tokens, axis=1), -top)[:, -top:]
    return np.take_along_axis(tokens, chosen, axis=1)


def in_spans(measure: Callable[[slice], Result], rows: int, threads: int) -> list[Result]:
    """`measure` of each span of rows, in order, in threads: NumPy releases Python's lock while it computes."""
    spans = [slice(start, min(start + SPAN_ROWS, rows)) for start in range(0, rows, SPAN_ROWS)]
    threads = min(threads, len(spans))
    if threads < 2:
        return [measure(span) for span in spans]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(measure, spans))


def blocks(span: slice, vocab_size: int) -> Iterator[slice]:
    """A span of rows in blocks that stay in a core's cache."""
    rows = block_rows(vocab_size)
    return (slice(start, min(start + rows, span.stop)) for start in range(span.start, span.stop, rows))


def block_rows(vocab_size: int) -> int:
    """Rows of such a block."""
    return min(SPAN_ROWS, max(1, BLOCK_NUMBERS // vocab_size))
