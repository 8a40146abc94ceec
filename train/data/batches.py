"""Batches of rows. The rows of a step are a pure function of the step, so a resumed run sees the same batches.

They do not depend on the number of processes either: each process takes its part of the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from train.data.config import ISOLATED, PAIRS, DataSection
from train.data.corpus import TokenSource
from train.data.mixture import Mixture, draws_by_weight
from train.data.rows import PairDataset, Row, RowDataset
from train.errors import DataError, RecipeError
from train.labels import IGNORE_INDEX


class Batch(NamedTuple):
    """Rows in one array, padded at their ends.

    input_ids     int64 [rows, longest row]
    labels        int64 of the same shape: the token after each input; `IGNORE_INDEX` where nothing is learned
    document_ids  int64 of the same shape, where tokens may attend within their own document alone; else None

    Of pairs of answers the shape is [pairs, 2, longest row].
    """

    input_ids: Tensor
    labels: Tensor
    document_ids: Tensor | None = None

    @property
    def units(self) -> int:
        """What the loss is a mean over: pairs of answers, or else tokens that have a label."""
        return len(self.labels) if self.labels.ndim == 3 else int((self.labels != IGNORE_INDEX).sum())


class Epoch(NamedTuple):
    """What is drawn in one reading of the text; with weights, as many tokens as all sources have."""

    rows: int
    tokens: float  # with a label, on average


class Batches:
    """The rows of a corpus' sources in a seeded order, in batches.

    Args:
        sources: their training streams are read.
        data: how streams are cut into rows, and the rows per step of all processes together.
        seed: of the order of rows.
        rank: of this process, which takes every `world_size`-th row of a step from row `rank` on.
        world_size: the number of processes that share a step's rows.

    Raises:
        RecipeError: the processes cannot share the rows evenly.
        DataError: a source has nothing to learn from.
    """

    def __init__(
        self,
        sources: Sequence[TokenSource],
        data: DataSection,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_shareable(data.batch_size, world_size)
        self._rows = row_datasets(sources, data)
        draws = _draws(sources, self._rows)
        self._order = Mixture(_counts(self._rows), draws, seed)
        self.epoch = Epoch(sum(draws), _tokens(sources, self._rows, draws))
        self._batch_size = data.batch_size
        self._isolated, self._of_pairs = data.rows == ISOLATED, data.rows == PAIRS
        self._rank, self._world_size = rank, world_size

    def batch(self, step: int) -> Batch:
        """This process's rows of a step."""
        first = step * self._batch_size
        drawn = (self._order[first + row] for row in range(self._rank, self._batch_size, self._world_size))
        rows = [self._rows[source][row] for source, row in drawn]
        return pad_pairs(rows) if self._of_pairs else pad_rows(rows, isolated=self._isolated)

    def save(self, folder: Path) -> None:
        """Nothing is saved, because a step decides its rows."""

    def load(self, folder: Path) -> None:
        """Nothing is loaded, because a step decides its rows."""


def check_shareable(batch_size: int, world_size: int) -> None:
    """Raise RecipeError where the processes cannot share the rows of a step evenly."""
    if batch_size % world_size:
        raise RecipeError(
            f"{world_size} processes cannot share data.batch_size {batch_size} evenly: make it a multiple of "
            f"{world_size}"
        )


def row_datasets(sources: Sequence[TokenSource], data: DataSection) -> list[Any]:
    """The rows, or the pairs of rows, of each source's training streams. Raises DataError where a source has none."""
    datasets: list[Any] = [
        PairDataset(source.train, data.context)
        if data.rows == PAIRS
        else RowDataset(source.train, data.context, data.rows)
        for source in sources
    ]
    for source, rows in zip(sources, datasets, strict=True):
        if not len(rows):
            raise DataError(
                f"{source.name} has nothing to train on: all of its documents are held out, empty or skipped"
                + (f"; {source.skipped}" if source.skipped.count else "")
            )
    return datasets


def _counts(rows: Sequence[Sized]) -> list[int]:
    return [len(of_source) for of_source in rows]


def _draws(sources: Sequence[TokenSource], rows: Sequence[Sized]) -> list[int]:
    weights = [source.weight for source in sources if source.weight is not None]
    if not weights:
        return _counts(rows)
    return draws_by_weight(_counts(rows), [source.train_tokens for source in sources], weights)


def _tokens(sources: Sequence[TokenSource], rows: Sequence[Sized], draws: Sequence[int]) -> float:
    return sum(source.train_tokens * drawn / len(of) for source, of, drawn in zip(sources, rows, draws, strict=True))


def pad_pairs(pairs: Sequence[tuple[Row, Row]]) -> Batch:
    """A batch of these pairs of answers."""
    batch = pad_rows([row for pair in pairs for row in pair])
    return Batch(*(tensor.unflatten(0, (-1, 2)) for tensor in batch[:2]))


def pad_rows(rows: Sequence[Row], *, isolated: bool = False) -> Batch:
    """A batch of these rows."""
    longest = max(row.end - row.begin for row in rows)
    input_ids = np.zeros((len(rows), longest), np.int64)
    labels = np.full((len(rows), longest), IGNORE_INDEX, np.int64)
    document_ids = np.full((len(rows), longest), -1, np.int64) if isolated else None
    for number, (stream, begin, end) in enumerate(rows):
        length = end - begin
        input_ids[number, :length] = stream.tokens[begin:end]
        labels[number, :length] = stream.tokens[begin + 1 : end + 1]
        if stream.learned is not None:
            labels[number, :length][~stream.learned[begin + 1 : end + 1]] = IGNORE_INDEX
        if document_ids is not None:
            places = np.arange(begin, end)
            document_ids[number, :length] = np.searchsorted(stream.documents[:, 0], places, side="right")
    return Batch(
        torch.from_numpy(input_ids),
        torch.from_numpy(labels),
        None if document_ids is None else torch.from_numpy(document_ids),
    )
