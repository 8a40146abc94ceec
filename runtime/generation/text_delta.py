"""What a generation gives: pieces of text as they come, and all of them together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from runtime.engine.sequence import FinishReason
from runtime.sampling.logprobs import TokenLogprob
from runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextDelta:
    """A piece of a stream. The last one has a finish reason, and may have no token.

    Attributes:
        text: new text; empty while a character or a possible stop string is unfinished.
        token_id: the token that was drawn; None in a last piece that only flushes text.
        finish_reason: on the last piece: "stop" (a stop token or string, or a complete constrained text), "length"
            (max_new_tokens, or the context is full), "incomplete" (the same, before a constrained text was complete) or
            "cancelled".
        logprob: of the token, in nats, as the model gave it; None where SamplingOptions.top_logprobs is None.
        top_logprobs: the likeliest tokens in its place, in descending order.
    """

    text: str
    token_id: int | None = None
    finish_reason: FinishReason | None = None
    logprob: float | None = None
    top_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass
class Generation:
    """A generation and what it cost.

    Attributes:
        text: the new text, without the prompt.
        token_ids: the new tokens, without the one that stopped it.
        finish_reason: see TextDelta.
        prompt_tokens: how many the prompt had.
        cached_tokens: of these, the first ones that an earlier prompt had computed.
        time_to_first_token_seconds: from the call to the first token: the prefill.
        decode_seconds: from the first token to the last.
        logprobs: of each new token; empty where they were not asked for, as is top_logprobs.
        top_logprobs: of each new token, the likeliest ones in its place.
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason = "length"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    time_to_first_token_seconds: float = 0.0
    decode_seconds: float = 0.0
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[tuple[TokenLogprob, ...]] = field(default_factory=list)

    @property
    def new_tokens(self) -> int:
        """How many tokens were generated."""
        return len(self.token_ids)

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens that had to be computed over the time to the first token."""
        return _rate(self.prompt_tokens - self.cached_tokens, self.time_to_first_token_seconds)

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens after the first over the time that they took; 0 with fewer than two."""
        return _rate(self.new_tokens - 1, self.decode_seconds)

    def add(self, delta: TextDelta) -> None:
        """Take in a piece; the times are the caller's to tell."""
        self.text += delta.text
        if delta.token_id is not None:
            self.token_ids.append(delta.token_id)
        if delta.logprob is not None:
            self.logprobs.append(delta.logprob)
            self.top_logprobs.append(delta.top_logprobs)
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason


def collect(
    deltas: Iterator[TextDelta], *, prompt_tokens: int, on_delta: Callable[[TextDelta], object] | None = None
) -> Generation:
    """Run a stream to its end and time it; `on_delta` is told each piece as it comes."""
    result = Generation(prompt_tokens=prompt_tokens)
    started = time.perf_counter()
    first = last = None
    for delta in deltas:
        if delta.token_id is not None:
            last = time.perf_counter()
            first = first or last
        result.add(delta)
        if on_delta is not None:
            on_delta(delta)
    if first is not None and last is not None:
        result.time_to_first_token_seconds = first - started
        result.decode_seconds = last - first
    return result


def logprobs_to_list(result: Generation, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The log-probabilities as JSON values: for each new token `token_id`, `text`, `logprob`, and `top` of the same."""

    def described(token_id: int, logprob: float) -> dict[str, Any]:
        return {"token_id": token_id, "text": tokenizer.decode([token_id]), "logprob": logprob}

    drawn = zip(result.token_ids, result.logprobs, result.top_logprobs, strict=True)
    return [
        described(token_id, logprob) | {"top": [described(*other) for other in top]} for token_id, logprob, top in drawn
    ]


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds > 0 and tokens > 0 else 0.0
