"""Text from a stream of token ids: the pieces joined are the text of all ids at once.

A token need not be a piece of text: several may make one character (UTF-8 bytes), and a SentencePiece decoder drops the
space before the first word only. So each piece is the difference between two decodings of a short window, and it is
held back while its last character may still change. docs/decisions/0023 says why this is not tokenizers' DecodeStream.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.text.tokenizer import REPLACEMENT, Tokenizer

# A character has at most four bytes, and an id at least one: of ids that are not yet text, only these may become it.
UNFINISHED_IDS = 3
# So many ids without text are not characters: what is certain of them is given out, lest the window grow.
LONGEST_WAIT = 8


class Detokenizer:
    """Turns ids into text as they come.

    Args:
        tokenizer: of the bundle.
        context: ids before the first one, whose text is not given out: a word that continues the prompt keeps its
            leading space.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._window = list(context)  # the ids of the last piece, then those not yet given out
        self._given_ids = len(self._window)  # how many of them have been given out
        self._given_text = tokenizer.decode(self._window)

    def push(self, token_id: int) -> str:
        """The text that this id completes; empty while a character is unfinished."""
        if self._tokenizer.is_silent(token_id):  # it does not even end a run of byte tokens
            return ""
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window)
        if not text.endswith(REPLACEMENT):
            return self._give(text, len(self._window))
        return self._give_certain(text) if len(self._window) - self._given_ids > LONGEST_WAIT else ""

    @property
    def held(self) -> str:
        """The text held back so far."""
        return self._new(self._tokenizer.decode(self._window))

    def flush(self) -> str:
        """The text still held back, at the end."""
        return self._give(self._tokenizer.decode(self._window), len(self._window))

    def _new(self, text: str) -> str:
        given = self._given_text
        if not text.startswith(given):  # the context ended within a character, and that has become whole
            given = given.rstrip(REPLACEMENT)
        return text[len(given) :]

    def _give_certain(self, text: str) -> str:
        """Give out the text of the ids before those that may become a character, cut where no character is."""
        for ids in range(len(self._window) - UNFINISHED_IDS, self._given_ids, -1):
            head = self._tokenizer.decode(self._window[:ids])
            if text == head + self._tokenizer.decode(self._window[ids:]):
                return self._give(head, ids)
        return ""

    def _give(self, text: str, ids: int) -> str:
        """Give out the text of that many ids of the window."""
        piece = self._new(text)
        if piece:
            # The ids just given out begin the next window: they are the context that their successors need.
            self._window = self._window[self._given_ids :]
            self._given_ids = ids - self._given_ids
            self._given_text = self._tokenizer.decode(self._window[: self._given_ids])
        return piece
