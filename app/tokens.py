"""A text in tokens, to be looked at: which ids make which piece of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from runtime.text.detokenizer import Detokenizer
from runtime.text.tokenizer import Tokenizer


class Piece(NamedTuple):
    """A piece of text and its tokens: one, or several where they are the bytes of one character.

    Attributes:
        text: the characters, or a special token's spelling.
        token_ids: what makes them.
        is_special: whether it is a special token, which is no text.
    """

    text: str
    token_ids: list[int]
    is_special: bool


def pieces(tokenizer: Tokenizer, token_ids: Sequence[int]) -> list[Piece]:
    """The pieces, whose texts without those of special tokens are the text of all ids, joined."""
    found: list[Piece] = []
    held: list[int] = []
    detokenizer = Detokenizer(tokenizer)
    for token_id in token_ids:
        special = tokenizer.special_tokens.get(token_id)
        if special is not None:
            if held:
                found.append(Piece(detokenizer.flush(), held, False))
                held = []
            found.append(Piece(special, [token_id], True))
            continue
        text = detokenizer.push(token_id)
        held.append(token_id)
        if text or not detokenizer.held:
            found.append(Piece(text, held, False))
            held = []
    if held:
        found.append(Piece(detokenizer.flush(), held, False))
    return found
