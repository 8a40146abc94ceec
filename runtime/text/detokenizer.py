"""Text from a stream of token ids, such that the pieces joined are the text of all ids at once.

One token is not a piece of text: a character may be spread over several (UTF-8 bytes), and a SentencePiece decoder
drops the space before the first word only. So each piece is the difference between two decodings of a short window,
and it is held back while its last character may still change.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.text.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"  # what an unfinished UTF-8 sequence decodes to


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
        unfinished = text.endswith(REPLACEMENT) or token_id in self._tokenizer.byte_tokens
        if unfinished or len(text) <= len(self._given_text):
            return ""
        return self._give(text)

    def flush(self) -> str:
        """What is still held back, at the end."""
        text = self._tokenizer.decode(self._window)
        return self._give(text) if len(text) > len(self._given_text) else ""

    def _give(self, text: str) -> str:
        piece = text[len(self._given_text) :]
        # The ids just given out begin the next window: they carry the context that their successors need, and their
        # own text is known to be whole.
        self._window = self._window[self._given_ids :]
        self._given_ids = len(self._window)
        self._given_text = self._tokenizer.decode(self._window)
        return piece
