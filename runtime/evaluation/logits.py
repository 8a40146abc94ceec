"""Logits of a model at some positions, with what is derived from them once and read by every measure."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TypeVar

import numpy as np

from runtime.engine.threads import default_threads

# Rows that are worked on together: 4 rows of 49,152 float64 numbers are 1.5 MB, which stays in a core's cache.
ROWS_AT_ONCE = 4
TOP = 5
Result = TypeVar("Result")


class Logits:
    """Logits, and their normalizers and likeliest tokens, computed when first asked for.

    Args:
        values: float32 [positions, vocab_size].
    """

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    @cached_property
    def normalizers(self) -> np.ndarray:
        """float64 [positions]: the logarithm of the sum of exp(logits)."""
        return np.concatenate([np.zeros(0), *in_blocks(self._normalizers, len(self.values))])

    @cached_property
    def top(self) -> np.ndarray:
        """int64 [positions, 5 or vocab_size if less]: the likeliest tokens, in no order."""
        top = min(TOP, self.values.shape[-1])

        def likeliest(rows: slice) -> np.ndarray:
            return np.argpartition(self.values[rows], -top)[:, -top:]

        return np.concatenate([np.zeros((0, top), np.int64), *in_blocks(likeliest, len(self.values))])

    @cached_property
    def likeliest(self) -> np.ndarray:
        """int64 [positions]: the likeliest token."""
        likeliest: np.ndarray = self.values.argmax(-1)
        return likeliest

    def log_probabilities(self, rows: slice) -> np.ndarray:
        """float64 [rows, vocab_size]."""
        log_probabilities: np.ndarray = self.values[rows] - self.normalizers[rows, None]
        return log_probabilities

    def _normalizers(self, rows: slice) -> np.ndarray:
        values = self.values[rows]
        largest = values.max(-1, keepdims=True)
        sums = np.exp(values - largest.astype(np.float64)).sum(-1)
        normalizers: np.ndarray = largest[:, 0] + np.log(sums)
        return normalizers


def in_blocks(measure: Callable[[slice], Result], rows: int) -> list[Result]:
    """`measure` of each block of rows, in order, in threads: NumPy releases Python's lock while it computes."""
    blocks = [slice(start, start + ROWS_AT_ONCE) for start in range(0, rows, ROWS_AT_ONCE)]
    threads = min(default_threads(), len(blocks))
    if threads < 2:
        return [measure(block) for block in blocks]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(measure, blocks))
