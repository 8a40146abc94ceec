"""A text cut into windows of context, so that a model predicts each of its tokens exactly once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise


def document_windows(token_ids: Sequence[int], size: int, document_start: int | None = None) -> Iterator[list[int]]:
    """Windows that overlap by one token, each predicted from its own beginning.

    Args:
        token_ids: the text. All but its first token are predicted.
        size: the longest window, at least 2.
        document_start: a token (such as the BOS) at which a new window begins, so that no document is predicted from
            the one before it.
    """
    starts = [place for place, token_id in enumerate(token_ids) if place and token_id == document_start]
    for first, last in pairwise([0, *starts, len(token_ids) - 1]):
        for start in range(first, last, size - 1):
            yield list(token_ids[start : min(start + size, last + 1)])


def strided_windows(token_ids: Sequence[int], window: int, stride: int) -> Iterator[tuple[list[int], int]]:
    """Windows that share context, each with the number of its last tokens that it predicts.

    The first window predicts all that it holds but its first token; each later one predicts the next `stride` tokens,
    with as many before them for context as the window has room for.
    """
    end = min(window, len(token_ids))
    yield list(token_ids[:end]), end - 1
    while end < len(token_ids):
        predicted = min(stride, len(token_ids) - end)
        end += predicted
        yield list(token_ids[end - window : end]), predicted
