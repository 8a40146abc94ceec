"""What every engine must say: the tokens of our runtime on the same file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.bundle import Bundle
from runtime.engine.session import DecoderSession
from runtime.precisions import PRECISIONS


@dataclass(frozen=True)
class Continuation:
    """The most likely tokens, and by how much each one's logit was above the second's."""

    token_ids: list[int]
    margins: list[float]


def greedy(
    folder: Path, file: str, prompt_ids: list[int], new_tokens: int, *, in_place: bool | None = None
) -> Continuation:
    """The most likely token, again and again; `in_place` as in DecoderSession."""
    precision = next(name for name, row in PRECISIONS.items() if row.file == Path(file).name)
    session = DecoderSession(Bundle.open(folder), precision, threads=1, in_place=in_place, spin=False)
    cache = session.new_cache(len(prompt_ids) + new_tokens)
    token_ids: list[int] = []
    margins: list[float] = []
    feed = prompt_ids
    for _ in range(new_tokens):
        logits = session.forward(feed, cache)[-1]
        second, first = np.partition(logits, -2)[-2:]
        token_ids.append(int(logits.argmax()))
        margins.append(float(first - second))
        feed = token_ids[-1:]
    return Continuation(token_ids, margins)
