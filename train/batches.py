"""Batches of packed rows, each a pure function of the step: a resumed run sees what it would have seen.

A stream of n tokens makes n - 1 predictions. It is cut into rows of `context` predictions, whatever documents they
hold, and only the last row is padded, so nothing is lost. Rows come in another order in every epoch.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

IGNORED = -100  # the label that cross_entropy skips


class PackedBatches:
    """Rows of a token stream in a seeded order.

    Args:
        stream: token ids, int64 [tokens].
        context: predictions a row.
        batch_size: rows a step.
        seed: decides the order of rows.
    """

    def __init__(self, stream: Tensor, *, context: int, batch_size: int, seed: int) -> None:
        self.input_ids, self.labels = pack_rows([stream], context)
        self.batch_size = batch_size
        self._seed = seed
        self._order: dict[int, Tensor] = {}

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """input_ids and labels of a step, int64 [batch_size, context]; labels[i] is the token after input_ids[i]."""
        drawn = range(step * self.batch_size, (step + 1) * self.batch_size)
        rows = torch.stack([self._row(number) for number in drawn])
        return self.input_ids[rows], self.labels[rows]

    def _row(self, number: int) -> Tensor:
        """Which row is the `number`-th of all that are ever drawn."""
        epoch, place = divmod(number, len(self.input_ids))
        if epoch not in self._order:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            order = torch.randperm(len(self.input_ids), generator=generator)
            self._order = {epoch - 1: self._order.get(epoch - 1, order), epoch: order}  # a batch may span two epochs
        return self._order[epoch][place]


def pack_rows(streams: Iterable[Tensor], context: int) -> tuple[Tensor, Tensor]:
    """Cut streams into rows of `context` predictions, each stream beginning a row of its own.

    Args:
        streams: token ids, int64 [tokens] each.
        context: the length of a row.

    Returns:
        input_ids and labels, int64 [rows, context]. Padding has the label `IGNORED`.
    """
    pieces = [stream[start : start + context + 1] for stream in streams for start in range(0, len(stream) - 1, context)]
    input_ids = torch.zeros(len(pieces), context, dtype=torch.int64)
    labels = torch.full((len(pieces), context), IGNORED)
    for row, piece in enumerate(pieces):
        input_ids[row, : len(piece) - 1] = piece[:-1]
        labels[row, : len(piece) - 1] = piece[1:]
    return input_ids, labels
