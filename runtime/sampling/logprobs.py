"""Log-probabilities: of tokens as they are drawn, and of a given text.

They are the model's own: computed from its logits before temperature, processors and filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from runtime.sampling.sampler import check_finite, most_likely


class TokenLogprob(NamedTuple):
    """A token and the natural logarithm of its probability."""

    token_id: int
    logprob: float


@dataclass(frozen=True)
class TextScore:
    """How likely a text is.

    Attributes:
        token_ids: of the text.
        logprobs: of each token after all before it, in nats.
    """

    token_ids: list[int]
    logprobs: list[float]

    @property
    def total(self) -> float:
        """The log-probability of the whole text."""
        return float(np.sum(self.logprobs))

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability; 1 for an empty text."""
        return float(np.exp(-self.total / max(1, len(self.logprobs))))


class SampledToken(NamedTuple):
    """A token that was drawn.

    Attributes:
        token_id: which one.
        logprob: its log-probability in nats, of the model's own distribution; None where nobody asked.
        top_logprobs: the likeliest tokens in its place, in descending order.
    """

    token_id: int
    logprob: float | None = None
    top_logprobs: tuple[TokenLogprob, ...] = ()


def token_logprobs(logits: np.ndarray, token_id: int, top: int) -> tuple[float, tuple[TokenLogprob, ...]]:
    """The log-probability of a token, and the `top` likeliest tokens with theirs.

    Args:
        logits: float32 [vocab_size].
        token_id: which token.
        top: how many to tell; the lower id first at a tie.
    """
    shifted = logits - logits.max()
    total = float(np.log(np.exp(shifted).sum(dtype=np.float64)))
    likeliest = most_likely(logits, top) if top else ()
    told = tuple(TokenLogprob(int(other), float(shifted[other]) - total) for other in likeliest)
    return float(shifted[token_id]) - total, told


def text_logprobs(logits: np.ndarray, token_ids: Sequence[int]) -> list[float]:
    """The log-probability of each token, given the logits in its place, float32 [tokens, vocab_size].

    Raises:
        NumericError: logits that are NaN or infinite.
    """
    logprobs = []
    for row, token_id in zip(logits, token_ids, strict=True):
        check_finite(row.max())
        logprobs.append(token_logprobs(row, token_id, 0)[0])
    return logprobs
