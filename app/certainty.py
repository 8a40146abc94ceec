"""How sure the model was of each token, and what else it might have written there."""

from __future__ import annotations

import math
from typing import Any

from runtime.generation.text_delta import TextDelta
from runtime.text.tokenizer import Tokenizer

RIVALS = 5
# The token that was drawn may be among the likeliest.
TOP_LOGPROBS = RIVALS + 1
DIGITS = 5


class Certainty:
    """Tokens of one text, as the page shows them.

    Args:
        tokenizer: of the model.
        prompt_ids: what the text follows.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: list[int]) -> None:
        self._tokenizer = tokenizer
        self._before = prompt_ids[-1:]

    def entry(self, delta: TextDelta) -> dict[str, Any]:
        """A piece of the text, which was generated with `top_logprobs=TOP_LOGPROBS`. `generation` tells the form."""
        rivals = [
            [self._text(rival.token_id), _probability(rival.logprob)]
            for rival in delta.top_logprobs
            if rival.token_id != delta.token_id
        ]
        if delta.token_id is not None:
            self._before = [delta.token_id]
        probability = None if delta.logprob is None else _probability(delta.logprob)
        return {"t": delta.text, "id": delta.token_id, "p": probability, "rivals": rivals[:RIVALS]}

    def _text(self, token_id: int) -> str:
        """A token's text in its place: some decoders drop the space before a text's first word."""
        decode = self._tokenizer.decode
        before = decode(self._before)
        return decode([*self._before, token_id])[len(before) :] or self._tokenizer.special_tokens.get(token_id, "")


def _probability(logprob: float) -> float:
    return round(math.exp(logprob), DIGITS)
