"""What every engine must say: the tokens of our runtime on the same file."""

from __future__ import annotations

from pathlib import Path

from runtime.bundle import PRECISION_FILES, Bundle
from runtime.session import DecoderSession


def greedy(
    folder: Path, file: str, prompt_ids: list[int], new_tokens: int, *, in_place: bool | None = None
) -> list[int]:
    """The most likely token, again and again; `in_place` as in DecoderSession."""
    precision = next(name for name, known in PRECISION_FILES.items() if known == Path(file).name)
    session = DecoderSession(Bundle.open(folder), precision, threads=1, in_place=in_place, spin=False)
    cache = session.new_cache(len(prompt_ids) + new_tokens)
    found: list[int] = []
    feed = prompt_ids
    for _ in range(new_tokens):
        found.append(int(session.forward(feed, cache)[-1].argmax()))
        feed = found[-1:]
    return found
