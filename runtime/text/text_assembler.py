"""The text of one generation: detokenized, and ended by its stop strings."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.text.detokenizer import Detokenizer
from runtime.text.stop_strings import StopStrings
from runtime.text.tokenizer import Tokenizer


class TextAssembler:
    """Turns new ids into text, up to the first stop string.

    Stop strings see the special tokens too, as transformers' `stop_strings` do: `<|im_end|>` stops, alone or with text
    on either side. The text that is given out has no special tokens.

    Args:
        tokenizer: of the bundle.
        context: ids before the first new one; see Detokenizer.
        stop_strings: the text ends before the first of them.

    Raises:
        OptionError: an empty stop string.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = (), stop_strings: Sequence[str] = ()) -> None:
        self._detokenizer = Detokenizer(tokenizer, context)
        self._stop_strings = StopStrings(stop_strings)
        self._has_stop_strings = bool(stop_strings)
        self._special_tokens = tokenizer.special_tokens

    @property
    def is_cut(self) -> bool:
        """Whether a stop string has ended the text: what was given out is shorter than the text of the ids."""
        return self._stop_strings.found

    def push(self, token_id: int) -> str:
        """The text that this id completes. Nothing more comes once `is_cut` is set."""
        if not self._has_stop_strings:
            return self._detokenizer.push(token_id)
        if token_id in self._special_tokens:
            # An unfinished character stands before the token, and may be finished after it.
            return self._stop_strings.push("", self._detokenizer.held + self._special_tokens[token_id])
        return self._stop_strings.push(self._detokenizer.push(token_id))

    def flush(self) -> str:
        """The text held back at the end of the ids, up to a stop string that it completes."""
        if self.is_cut:
            return ""
        rest = self._stop_strings.push(self._detokenizer.flush())
        return rest if self.is_cut else rest + self._stop_strings.flush()
