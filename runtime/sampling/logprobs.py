"""Log-probabilities: of the tokens that are drawn, and of a given text.

They are the model's own, of the logits as it gave them: neither temperature nor processors nor filters change them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from runtime.sampling.logits_processors import LogitsProcessor
from runtime.sampling.sampler import Sampler, check_finite, most_likely


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


class ScoredSampler:
    """Processors and a sampler that also note how likely each token was that they drew.

    Give `process` as the only processor and `sample` as the sampler; for every token drawn, `pop` tells its
    log-probabilities, in the order in which they were drawn.

    Args:
        sampler: draws.
        processors: run before it, in order.
        top_logprobs: how many of the likeliest tokens to tell; None for no log-probabilities at all.
    """

    def __init__(
        self,
        sampler: Sampler,
        processors: Sequence[LogitsProcessor],
        *,
        top_logprobs: int | None = None,
    ) -> None:
        self._sampler = sampler
        self._processors = tuple(processors)
        self._top = top_logprobs
        self._raw = np.zeros(0, np.float32)
        self._drawn: deque[tuple[float, tuple[TokenLogprob, ...]]] = deque()

    def process(self, token_ids: Sequence[int], logits: np.ndarray) -> np.ndarray:
        """Run the processors. Raises NumericError at NaN, which a processor might forbid and so hide."""
        self._raw = logits
        if self._processors:
            check_finite(logits.max())
        for process in self._processors:
            logits = process(token_ids, logits)
        return logits

    def sample(self, logits: np.ndarray) -> int:
        """Draw a token and note its log-probabilities."""
        token_id = self._sampler(logits)
        if self._top is not None:
            self._drawn.append(token_logprobs(self._raw, token_id, self._top))
        return token_id

    def pop(self) -> tuple[float | None, tuple[TokenLogprob, ...]]:
        """Of the earliest token not yet told: its log-probability, and the likeliest tokens in descending order."""
        return self._drawn.popleft() if self._drawn else (None, ())


def token_logprobs(logits: np.ndarray, token_id: int, top: int) -> tuple[float, tuple[TokenLogprob, ...]]:
    """The log-probability of a token, and the `top` likeliest tokens with theirs.

    Args:
        logits: float32 [vocab_size].
        token_id: which token.
        top: at most so many; the lower id first at a tie.
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
