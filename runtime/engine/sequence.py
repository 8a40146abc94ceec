"""One sequence of tokens under way: its cache, how its tokens are drawn, and when it ends."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from runtime.bundle import ModelShape
from runtime.engine.kv_cache import KVCache
from runtime.engine.prompt_lookup import PromptLookup
from runtime.errors import ContextLengthError, OptionError
from runtime.sampling.logits_processors import LogitsProcessor
from runtime.sampling.logprobs import SampledToken, token_logprobs
from runtime.sampling.sampler import Sampler, check_finite, greedy

FinishReason = Literal["stop", "length", "incomplete", "cancelled", "error"]

DEFAULT_MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class Request:
    """What to generate.

    Attributes:
        prompt_ids: at least one token; where `cache` holds a beginning of them, that is not computed again.
        max_new_tokens: the most that may come; None for 256, or what the context has room for.
        sampler: from logits float32 [vocab_size] to a token id.
        logits_processors: run before the sampler, in order, on all ids so far, those of the prompt included.
        stop_token_ids: the sequence ends before any of these; None for the model's own, () for none.
        on_token: told every token that comes; a reason ends the sequence with that token.
        top_logprobs: give each token's log-probability, and those of this many likeliest ones; None for neither.
        prompt_lookup: check guesses that are looked up in the sequence so far, several in one pass.
        cache: the caller's own, which holds the sequence after each step. None for one of the scheduler's.
        reuse_prompt: begin with a prefix that an earlier sequence has computed, and leave later ones what they may
            share. False keeps the prompt to itself, so that nobody can tell from a time that it was there.
    """

    prompt_ids: abc.Sequence[int]
    max_new_tokens: int | None = None
    sampler: Sampler = greedy
    logits_processors: abc.Sequence[LogitsProcessor] = ()
    stop_token_ids: abc.Collection[int] | None = None
    on_token: abc.Callable[[SampledToken], FinishReason | None] = lambda _: None
    top_logprobs: int | None = None
    prompt_lookup: bool = False
    cache: KVCache | None = None
    reuse_prompt: bool = True


class SequenceOutput(NamedTuple):
    """What a step did for one sequence.

    Attributes:
        sequence: which one; it has a `finish_reason` when this is its last output.
        token: the token that came; None where the sequence ended without another one.
    """

    sequence: Sequence
    token: SampledToken | None


class Sequence:
    """A request under way.

    Args:
        index: of the request, in the order of arrival.
        request: what to generate.
        limit: new tokens at most.
        stop_token_ids: of the model, for a request that names none.

    Attributes:
        token_ids: the prompt, then the new tokens; what processors see.
        prompt_tokens: how many of them are the prompt.
        cache: holds `token_ids` up to the last one or ones; None before the first pass.
        cached_tokens: of the prompt, those that an earlier sequence had computed.
        begun_seconds: by `time.perf_counter`, when its prompt began to run; None before.
        looks_up: whether it may run guesses, and so several tokens in a pass.
        is_paused: takes no part in steps: nobody has taken its last token yet.
        finish_reason: None while it runs.
        error: what a processor, the sampler or the graph raised, where the reason is "error".
    """

    __slots__ = (
        "_lookup",
        "_on_token",
        "_processors",
        "_sampler",
        "_stops",
        "_top",
        "begun_seconds",
        "cache",
        "cached_tokens",
        "error",
        "finish_reason",
        "index",
        "is_paused",
        "limit",
        "looks_up",
        "prompt_tokens",
        "request",
        "token_ids",
    )

    def __init__(
        self, index: int, request: Request, limit: int, stop_token_ids: abc.Collection[int] = frozenset()
    ) -> None:
        self.index = index
        self.request = request
        self.looks_up = request.prompt_lookup
        self.limit = limit
        self.token_ids = list(request.prompt_ids)
        self.prompt_tokens = len(self.token_ids)
        self.cache: KVCache | None = None
        self.cached_tokens = 0
        self.begun_seconds: float | None = None
        self.is_paused = False
        self.finish_reason: FinishReason | None = None
        self.error: Exception | None = None
        self._lookup = PromptLookup(self.token_ids) if request.prompt_lookup else None
        # What every step asks for, at hand.
        self._sampler, self._processors = request.sampler, tuple(request.logits_processors)
        self._stops = stop_token_ids if request.stop_token_ids is None else request.stop_token_ids
        self._on_token, self._top = request.on_token, request.top_logprobs

    @property
    def new_ids(self) -> list[int]:
        """The tokens that came, without the one that stopped the sequence."""
        return self.token_ids[self.prompt_tokens :]

    @property
    def is_decoding(self) -> bool:
        """Whether the prompt has run."""
        return len(self.token_ids) > self.prompt_tokens

    def guesses(self) -> list[int]:
        """Tokens that may come next, if the request asks for prompt lookup and they are worth a check."""
        if self._lookup is None:
            return []
        return self._lookup.guesses(self.limit - (len(self.token_ids) - self.prompt_tokens) - 1)

    def take(self, logits: np.ndarray) -> SequenceOutput:
        """Draw the next token from logits float32 [vocab_size], and see whether it is the last.

        Whatever a processor, the sampler or `on_token` raises ends this sequence with that error.
        """
        try:
            token = self._draw(logits)
            token_id = token[0]
            if token_id in self._stops:
                self.finish_reason = "stop"
                return SequenceOutput(self, None)
            self.token_ids.append(token_id)
            if self._lookup is not None:
                self._lookup.push(token_id)
            self.finish_reason = self._on_token(token)
        except Exception as error:  # noqa: BLE001 - a caller's functions may raise anything
            self.fail(error)
            return SequenceOutput(self, None)
        if self.finish_reason is None and len(self.token_ids) - self.prompt_tokens == self.limit:
            self.finish_reason = "length"
        return SequenceOutput(self, token)

    def fail(self, error: Exception) -> None:
        """End with an error."""
        self.finish_reason, self.error = "error", error

    def _draw(self, logits: np.ndarray) -> SampledToken:
        top = self._top
        # Log-probabilities are the model's own, and a processor or sampler may edit logits in place.
        own = logits if top is None else logits.copy()
        if self._processors:
            check_finite(logits.max())  # a processor might forbid the NaN and so hide it
            for process in self._processors:
                logits = process(self.token_ids, logits)
        token_id = self._sampler(logits)
        return SampledToken(token_id) if top is None else SampledToken(token_id, *token_logprobs(own, token_id, top))


def new_token_limit(shape: ModelShape, prompt_tokens: int, max_new_tokens: int | None) -> int:
    """How many tokens may come after a prompt of `prompt_tokens`.

    Raises:
        ContextLengthError: the context has no room for a new token.
        OptionError: max_new_tokens is below 1, or exceeds what the context has room for.
    """
    context = shape.max_position_embeddings
    room = context - prompt_tokens
    if room < 1:
        raise ContextLengthError(
            f"the prompt has {prompt_tokens} tokens and the model's context is {context}: "
            "shorten it until there is room for a new one"
        )
    if max_new_tokens is None:
        return min(DEFAULT_MAX_NEW_TOKENS, room)
    if max_new_tokens < 1:
        raise OptionError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    if max_new_tokens > room:
        raise OptionError(
            f"max_new_tokens {max_new_tokens} and a prompt of {prompt_tokens} tokens exceed the model's context of "
            f"{context}: ask for at most {room}"
        )
    return max_new_tokens
