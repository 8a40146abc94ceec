"""Batches of a run in which a source is read while it is trained on.

Their rows are drawn one after another, so they have a state, which is saved with the weights. Each source's share of
the tokens is kept exactly: the next row is of the source that is furthest behind its weight.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from train.data.batches import Batch, Epoch, check_shareable, pad_rows, row_datasets
from train.data.config import ISOLATED, DataSection
from train.data.corpus import TokenSource, make_encoder
from train.data.mixture import hash_numbers
from train.data.row_streams import RowSource, StreamedRows, TokenizedRows, learned_in, pack_rows, unpack_rows
from train.data.rows import Row
from train.data.tokenizer import CorpusTokenizer
from train.errors import DataError

STATE_FILE = "data.npz"
COUNTS = "counts"
ROWS = ("tokens", "learned", "documents", "lengths", "document_counts")


class StreamedBatches:
    """The rows of streamed and of tokenized sources, mixed by weight. Each process reads all of them.

    Args:
        sources: of a corpus.
        data: how rows are cut, and the rows per step of all processes together.
        tokenizer: of the streamed sources.
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
        tokenizer: CorpusTokenizer,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_shareable(data.batch_size, world_size)
        self._sources: list[RowSource] = []
        for number, source in enumerate(sources):
            own_seed = hash_numbers(seed, number)
            if source.streamed is None:
                [rows] = row_datasets([source], data)
                self._sources.append(TokenizedRows(rows, own_seed))
            else:
                encoder = make_encoder(tokenizer, data.on_unmaskable)
                self._sources.append(StreamedRows(source.streamed, data, encoder, seed, own_seed))
        weights = [1.0 if source.weight is None else source.weight for source in sources]
        self._shares = [weight / sum(weights) for weight in weights]
        self._drawn = [0] * len(sources)  # tokens to learn
        self._batch_size, self._isolated = data.batch_size, data.rows == ISOLATED
        self._rank, self._world_size = rank, world_size
        # A stream's end is not known. A row counts as one of `context` tokens, as packed ones have.
        self.epoch = Epoch(1, float(data.context))
        self._step, self._rows = -1, list[Row]()  # the step that was drawn last, and its rows

    def batch(self, step: int) -> Batch:
        """This process's rows of a step: the one drawn last, or the one after it."""
        if step == self._step + 1 or self._step < 0:  # a run that branches off begins at another step
            self._rows = [self._next_row() for _ in range(self._batch_size)]
            self._step = step
        elif step != self._step:
            raise ValueError(f"the batch of step {step} was asked for after that of step {self._step}")
        return pad_rows(self._rows[self._rank :: self._world_size], isolated=self._isolated)

    def _next_row(self) -> Row:
        total = sum(self._drawn)
        behind = [share * total - drawn for share, drawn in zip(self._shares, self._drawn, strict=True)]
        place = behind.index(max(behind))
        row = self._sources[place].next_row()
        self._drawn[place] += learned_in(row)
        return row

    def save(self, folder: Path) -> None:
        """Write the state into a folder. A step that was drawn and not finished is drawn again by who loads it."""
        counts, rows = zip(*(source.state() for source in self._sources), strict=True)
        lengths = [len(self._rows), *map(len, rows)]
        about = {"step": self._step, "drawn": self._drawn, "sources": counts, "rows": lengths}
        packed = pack_rows([*self._rows, *(row for of_source in rows for row in of_source)])
        np.savez(folder / STATE_FILE, **packed, **{COUNTS: np.frombuffer(json.dumps(about).encode(), np.uint8)})

    def load(self, folder: Path) -> None:
        """Go on from a state. Raises DataError where the folder holds none."""
        try:
            with np.load(folder / STATE_FILE) as arrays:
                about = json.loads(arrays[COUNTS].tobytes())
                rows = unpack_rows({name: arrays[name] for name in ROWS})
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{folder / STATE_FILE} cannot be read ({error}): the run cannot go on exactly") from None
        starts = list(accumulate(about["rows"], initial=0))
        parts = [rows[start:end] for start, end in pairwise(starts)]
        self._step, self._drawn, self._rows = about["step"], about["drawn"], parts[0]
        for source, counts, part in zip(self._sources, about["sources"], parts[1:], strict=True):
            source.load(counts, part)
