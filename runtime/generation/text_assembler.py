"""From tokens as they come to pieces of text: the detokenizer, the stop strings, and the end of a constrained text."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.engine.sequence import FinishReason
from runtime.generation.text_delta import TextDelta
from runtime.sampling.constraint import Constraint
from runtime.sampling.logprobs import SampledToken
from runtime.text.detokenizer import Detokenizer
from runtime.text.stop_strings import StopStrings
from runtime.text.tokenizer import Tokenizer


class TextAssembler:
    """The text after one prompt.

    Args:
        tokenizer: of the bundle.
        prompt_ids: what the text follows.
        stop_strings: the text ends before any of them.
        constraint: what the text must keep to; it ends where nothing can be added.

    Attributes:
        new_ids: the tokens so far, without the one that stopped the text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        *,
        stop_strings: Sequence[str] = (),
        constraint: Constraint | None = None,
    ) -> None:
        self.new_ids: list[int] = []
        self._constraint = constraint
        self._stop_strings = StopStrings(stop_strings)
        self._detokenizer = Detokenizer(tokenizer, _context(tokenizer, prompt_ids, constraint))

    @property
    def is_cut(self) -> bool:
        """Whether a stop string ended the text, so that it is shorter than that of the new ids."""
        return self._stop_strings.found

    def push(self, token: SampledToken, *, is_last: bool = False) -> TextDelta:
        """The piece of text that a token completes.

        Args:
            token: the next one.
            is_last: no other follows, because the limit of new tokens is reached.
        """
        self.new_ids.append(token.token_id)
        text = self._stop_strings.push(self._detokenizer.push(token.token_id))
        reason: FinishReason | None = "length" if is_last else None
        if self._constraint is not None:
            self._constraint.follow(self.new_ids)
            if self._constraint.is_finished:
                reason = "stop"
        if reason is not None and not self.is_cut:
            text += self._rest()
        if self.is_cut:
            reason = "stop"
        return TextDelta(text, token.token_id, reason, token.logprob, token.top_logprobs)

    def end(self, reason: FinishReason) -> TextDelta:
        """The last piece of a text that ends without another token: what was held back."""
        rest = self._rest()
        return TextDelta(rest, None, "stop" if self.is_cut else reason)

    def _rest(self) -> str:
        """The text held back so far, up to a stop string that it may complete."""
        rest = self._stop_strings.push(self._detokenizer.flush())
        return rest if self._stop_strings.found else rest + self._stop_strings.flush()


def _context(tokenizer: Tokenizer, prompt_ids: Sequence[int], constraint: Constraint | None) -> list[int]:
    """The ids whose text the new one follows.

    A SentencePiece decoder drops a space that begins a text. A grammar has counted it, so a constrained text never
    begins one.
    """
    if constraint is not None and not tokenizer.decode(prompt_ids):
        return [*prompt_ids, *tokenizer.encode(".", add_special_tokens=False)]
    return list(prompt_ids)
