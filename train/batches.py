"""Batches of rows, each a pure function of the step: a resumed run sees what it would have seen.

A stream of n tokens makes n - 1 predictions, and rows share them out, so that none is lost. Two ways to cut it:

    packed              a row is the next `context` predictions, whatever documents they belong to; nothing is padded
    separate documents  a row is one document, so that no token attends to another document's; the shorter rows of a
                        batch are padded, which costs about a fifth of the work when documents differ as stories do

Rows come in another order in every epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from train.errors import RecipeError

IGNORED = -100  # the label that cross_entropy skips

Span = tuple[int, int]  # the predictions [start, end): the inputs are stream[start:end], the labels one further


class Batches:
    """Rows of a token stream in a seeded order.

    Args:
        stream: token ids, int64 [tokens].
        spans: the rows.
        batch_size: rows a step.
        seed: decides the order of rows.
        rank: which share of a step's rows to give: every `world_size`-th.
        world_size: into how many shares a step's rows are cut; together they are the same rows however many.

    Raises:
        RecipeError: the shares would differ in size.
    """

    def __init__(
        self, stream: Tensor, spans: Sequence[Span], *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size % world_size:
            raise RecipeError(f"data.batch_size {batch_size} cannot be shared evenly by {world_size} processes")
        self._stream = stream
        self._spans = spans
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._orders: dict[int, list[int]] = {}

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """input_ids and labels of this rank's rows of a step; labels[i] is what follows input_ids[i].

        Both are int64 [batch_size / world_size, longest of these rows].
        """
        drawn = range(step * self._batch_size + self._rank, (step + 1) * self._batch_size, self._world_size)
        return pad_rows(self._stream, [self._spans[self._row(number)] for number in drawn])

    def _row(self, number: int) -> int:
        """Which row is the `number`-th of all that are ever drawn."""
        epoch, place = divmod(number, len(self._spans))
        if epoch not in self._orders:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            self._orders = {epoch: torch.randperm(len(self._spans), generator=generator).tolist()}
        return self._orders[epoch][place]


def packed_spans(stream: Tensor, context: int) -> list[Span]:
    """Cut a stream into rows of `context` predictions; the last may be shorter."""
    predictions = len(stream) - 1
    return [(start, min(start + context, predictions)) for start in range(0, predictions, context)]


def document_spans(stream: Tensor, context: int, separator: int) -> list[Span]:
    """Cut a stream at its separators, and documents longer than the context into several rows.

    The stream begins and ends with a separator; a row has its document's first separator in and predicts the last.
    """
    places = (stream == separator).nonzero().flatten().tolist()
    return [
        (begin, min(begin + context, end)) for start, end in pairwise(places) for begin in range(start, end, context)
    ]


def pad_rows(stream: Tensor, spans: Sequence[Span]) -> tuple[Tensor, Tensor]:
    """input_ids and labels of some rows, int64 [rows, longest row]; padding has the label `IGNORED`."""
    longest = max(end - start for start, end in spans)
    input_ids = torch.zeros(len(spans), longest, dtype=torch.int64)
    labels = torch.full((len(spans), longest), IGNORED)
    for row, (start, end) in enumerate(spans):
        input_ids[row, : end - start] = stream[start:end]
        labels[row, : end - start] = stream[start + 1 : end + 1]
    return input_ids, labels
