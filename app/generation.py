"""A text for the page: from a visitor's wishes to events, for as long as the visitor listens.

An event is a JSON object, told by its keys:

    {"loading": "q8"}         the precision is being opened
    {"start": {...}}          the text is in line: prompt_tokens, limit_tokens, context_tokens, dropped_messages, seed,
                              precision
    {"queue": 2}              its place there; 1 is next
    {"prompt": [64, 300]}     tokens of the prompt that have run, and all
    {"t": " mouse", "n": 1}   new text, and its tokens; several where they came together
    {"tokens": [...]}         instead of `t` and `n` where `certainty` was asked for, an entry a token
    {"end": {...}}            finish_reason (stop, length, incomplete), new_tokens, cached_tokens,
                              tokens_per_second, first_token_seconds, waited_seconds
    {"error": "..."}          why there is no more: the last one, in place of `end`

An entry of `tokens` is `{"t": " mouse", "id": 1234, "p": 0.62, "rivals": [[" cat", 0.11], ...]}`: the token's text and
id, its probability, and the five likeliest other tokens in its place with theirs, in descending order. Probabilities
are the model's own, before temperature and the like. The texts put together are the text. A character of several tokens
comes with the last of them, and a text that may be the beginning of a stop string with the token that decides it; the
last entry may have text and no token: `id` and `p` are null.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from app.api.engine import Answer, Engine, ServedText
from app.api.errors import BUSY, ApiError, api_error
from app.certainty import TOP_LOGPROBS, Certainty
from app.models import Models
from app.wishes import PageLimits, Sampling, Wish
from runtime.errors import ContextLengthError
from runtime.generation.text_delta import TextDelta
from runtime.language_model import LanguageModel
from runtime.sampling.options import DefaultLength, SamplingOptions

Event = dict[str, Any]
Events = AsyncGenerator[list[Event]]

SEED_BITS = 31
# While a text waits, its place is told this often at least, if it changes.
WAITING_SECONDS = 0.2
# A screen shows no more than this, and a small model makes tokens faster than a page can be drawn.
GATHERING_SECONDS = 0.03


@dataclass(frozen=True)
class Prompt:
    """What a text begins with.

    Attributes:
        ids: its tokens.
        dropped_messages: of a conversation, those that had no room.
        reuse: begin with what an earlier text has computed; without it, times are those of the whole prompt.
    """

    ids: list[int]
    dropped_messages: int = 0
    reuse: bool = True


MakePrompt = Callable[[LanguageModel, SamplingOptions], Prompt]


@dataclass
class Visitors:
    """How many texts each address waits for."""

    texts: Counter[str] = field(default_factory=Counter)

    def enter(self, client: str, limit: int) -> None:
        """Count a text. Raises ApiError 429 where the address has as many as it may."""
        if self.texts[client] >= limit:
            raise ApiError(
                429,
                f"{limit} texts are under way for your address: stop one, or wait until it ends",
                kind=BUSY,
                code="too_many_texts",
                headers={"retry-after": "1"},
            )
        self.texts[client] += 1

    def leave(self, client: str) -> None:
        """A text has ended."""
        self.texts[client] -= 1
        if not self.texts[client]:
            del self.texts[client]


class PageText:
    """One text that a visitor asked for.

    Args:
        models: what computes.
        wish: how.
        make_prompt: of the model, run beside the event loop.
        limits: of the request.
    """

    def __init__(self, models: Models, wish: Wish, make_prompt: MakePrompt, limits: PageLimits) -> None:
        self._models = models
        self._wish = wish
        self._make_prompt = make_prompt
        self._limits = limits
        self._answer: Answer | None = None
        self._certainty: Certainty | None = None

    def close(self) -> None:
        """Give up what has not ended: from the next step on, nothing is computed for it."""
        if self._answer is not None:
            self._answer.close()

    async def events(self) -> Events:
        """All events; what goes wrong is the last one."""
        try:
            precision = self._wish.precision or self._models.default
            if self._models.state(precision) != "ready":
                yield [{"loading": precision}]
            found = await self._models.get(precision)
            # Before anything is awaited: a precision without an answer may be closed.
            self._answer = answer = found.engine.open(1)
            started = await found.engine.prepare(partial(self._prepare, found.model, answer.texts[0]))
            found.engine.submit(answer)
            yield [{"start": started | {"precision": precision}}]
            async for events in self._run(found.engine, answer):
                yield events
        except Exception as error:  # noqa: BLE001 - the status is sent already; a visitor is told in words
            yield [{"error": str(api_error(error))}]
        finally:
            self.close()

    def _prepare(self, model: LanguageModel, text: ServedText) -> Event:
        prompt, options, start = self.plan(model)
        text.request = model.text_request(prompt.ids, options, reuse_prompt=prompt.reuse, on_delta=text.take)
        if self._wish.certainty:
            self._certainty = Certainty(model.tokenizer, prompt.ids)
        return start

    def plan(self, model: LanguageModel) -> tuple[Prompt, SamplingOptions, Event]:
        """The prompt, the options with the length that there is room for, and what the page is told of both."""
        options = sampling_options(model, self._wish.sampling)
        prompt = self._make_prompt(model, options)
        context = model.session.shape.max_position_embeddings
        limit = self._limit(options, len(prompt.ids), context)
        options = replace(options, max_new_tokens=limit, top_logprobs=TOP_LOGPROBS if self._wish.certainty else None)
        start = {
            "prompt_tokens": len(prompt.ids),
            "limit_tokens": limit,
            "context_tokens": context,
            "dropped_messages": prompt.dropped_messages,
            "seed": options.seed,
        }
        return prompt, options, start

    def _limit(self, options: SamplingOptions, prompt_tokens: int, context: int) -> int:
        most = self._limits.prompt_tokens
        if most is not None and prompt_tokens > most:
            raise ContextLengthError(f"the prompt has {prompt_tokens:,} tokens; this server takes {most:,} at most")
        asked, room = options.max_new_tokens, context - prompt_tokens
        if isinstance(asked, DefaultLength):
            asked = asked.new_tokens(prompt_tokens, context)
        # Without any room the runtime says what is wrong with the prompt, so it is asked for one token in any case.
        return max(1, min(asked or room, room, self._limits.new_tokens or room))

    async def _run(self, engine: Engine, answer: Answer) -> Events:
        text = answer.texts[0]
        coming = asyncio.ensure_future(answer.pieces())
        told: Event = {}
        try:
            while True:
                done, _ = await asyncio.wait([coming], timeout=WAITING_SECONDS if text.first_seconds is None else None)
                if not done:
                    state = _waiting(engine, text)
                    if state and state != told:
                        told = state
                        yield [state]
                    continue
                deltas = [delta for _, delta in coming.result()]
                events = [self._event(deltas)] if deltas else []
                if answer.is_whole:
                    yield [*events, {"end": figures(text, deltas[-1].finish_reason if deltas else "stop")}]
                    return
                yield events
                await asyncio.sleep(GATHERING_SECONDS)
                coming = asyncio.ensure_future(answer.pieces())
        finally:
            coming.cancel()

    def _event(self, deltas: list[TextDelta]) -> Event:
        if self._certainty is not None:
            return {"tokens": [self._certainty.entry(delta) for delta in deltas]}
        return {"t": "".join(delta.text for delta in deltas), "n": sum(d.token_id is not None for d in deltas)}


def sampling_options(model: LanguageModel, wish: Sampling) -> SamplingOptions:
    """The model's own options, what a visitor set, and a seed: drawn here, so that a good text can be had again."""
    given = {"seed": secrets.randbits(SEED_BITS)} | wish.given()
    return replace(model.default_sampling, **given)


def figures(text: ServedText, finish_reason: str | None) -> Event:
    """What a text has cost, once it has ended or so far."""
    begun, first, last = text.begun_seconds, text.first_seconds, text.last_seconds
    sequence = text.sequence
    speed = None
    if first is not None and last is not None and last > first:
        speed = (text.new_tokens - 1) / (last - first)
    return {
        "finish_reason": finish_reason,
        "new_tokens": text.new_tokens,
        "cached_tokens": 0 if sequence is None else sequence.cached_tokens,
        "tokens_per_second": speed,
        "first_token_seconds": None if first is None or begun is None else first - begun,
        "waited_seconds": (begun or time.perf_counter()) - text.accepted_seconds,
    }


def _waiting(engine: Engine, text: ServedText) -> Event | None:
    """The place in line, or how far the prompt has run."""
    place = engine.place(text)
    if place:
        return {"queue": place}
    sequence = text.sequence
    if sequence is None or sequence.cache is None:
        return None
    return {"prompt": [sequence.cache.length, sequence.prompt_tokens]}
