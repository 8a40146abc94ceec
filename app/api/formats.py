"""What is written of an answer: a whole one or chunks, in the form of either endpoint."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any, Protocol

from app.api.engine import Answer, ServedText
from app.api.preparation import Prompt
from runtime.generation.text_delta import Generation, TextDelta
from runtime.text.tokenizer import REPLACEMENT, Tokenizer

JsonObject = dict[str, Any]
LEAST_LOGPROB = -9999.0  # JSON has no infinity


class Format(Protocol):
    """How an endpoint writes its texts.

    Attributes:
        prefix: of the ids of its answers.
        whole, chunk: what it calls them.
    """

    prefix: str
    whole: str
    chunk: str

    def first(self, index: int, prompt: Prompt) -> JsonObject | None:
        """What a stream of a text begins with, as a choice; None for nothing."""

    def choice(self, index: int, result: Generation, prompt: Prompt) -> JsonObject:
        """A whole text."""

    def shows(self, delta: TextDelta) -> bool:
        """Whether a piece has anything to tell: of an unfinished character it may only be a token."""

    def delta(self, index: int, delta: TextDelta) -> JsonObject:
        """A piece of one."""


class CompletionFormat:
    """/v1/completions.

    Args:
        tokenizer: of the model.
        has_logprobs: whether log-probabilities were asked for.
        echo: whether the prompt stands in front of the text.
    """

    prefix, whole, chunk = "cmpl", "text_completion", "text_completion"

    def __init__(self, tokenizer: Tokenizer, *, has_logprobs: bool, echo: bool) -> None:
        self._tokenizer = tokenizer
        self._has_logprobs = has_logprobs
        self._echo = echo
        self._written: dict[int, int] = {}  # characters of each text, for text_offset

    def first(self, index: int, prompt: Prompt) -> JsonObject | None:
        """The prompt, where it is to be echoed."""
        return self._choice(index, prompt.text, None, None) if self._echo else None

    def choice(self, index: int, result: Generation, prompt: Prompt) -> JsonObject:
        """A whole text."""
        logprobs = None
        if self._has_logprobs:
            logprobs = self._logprobs(index, result.token_ids, result.logprobs, result.top_logprobs)
        text = prompt.text + result.text if self._echo else result.text
        return self._choice(index, text, _reason(result.finish_reason), logprobs)

    def delta(self, index: int, delta: TextDelta) -> JsonObject:
        """A piece of one."""
        logprobs = None
        if self._has_logprobs and delta.token_id is not None:
            logprobs = self._logprobs(index, [delta.token_id], [delta.logprob or 0.0], [delta.top_logprobs])
        return self._choice(index, delta.text, _reason(delta.finish_reason), logprobs)

    def shows(self, delta: TextDelta) -> bool:
        """See Format."""
        return bool(delta.text or delta.finish_reason or self._has_logprobs)

    def _choice(self, index: int, text: str, reason: str | None, logprobs: JsonObject | None) -> JsonObject:
        return {"index": index, "text": text, "finish_reason": reason, "logprobs": logprobs}

    def _logprobs(
        self, index: int, token_ids: Sequence[int], logprobs: Sequence[float], tops: Sequence[Any]
    ) -> JsonObject:
        tokens = [_token(self._tokenizer, token_id) for token_id in token_ids]
        offsets, place = [], self._written.get(index, 0)
        for token in tokens:
            offsets.append(place)
            place += len(token)
        self._written[index] = place
        return {
            "tokens": tokens,
            "token_logprobs": [_finite(logprob) for logprob in logprobs],
            "top_logprobs": [
                {_token(self._tokenizer, other): _finite(logprob) for other, logprob in reversed(top)} for top in tops
            ],
            "text_offset": offsets,
        }


class ChatFormat:
    """/v1/chat/completions.

    Args:
        tokenizer: of the model.
        has_logprobs: whether log-probabilities were asked for.
    """

    prefix, whole, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, *, has_logprobs: bool) -> None:
        self._tokenizer = tokenizer
        self._has_logprobs = has_logprobs

    def first(self, index: int, prompt: Prompt) -> JsonObject | None:  # noqa: ARG002 - as the protocol has it
        """Who speaks."""
        return self._delta(index, {"role": "assistant", "content": ""}, None, None)

    def choice(self, index: int, result: Generation, prompt: Prompt) -> JsonObject:  # noqa: ARG002
        """A whole answer."""
        entries = [
            self._entry(token_id, logprob, top)
            for token_id, logprob, top in zip(result.token_ids, result.logprobs, result.top_logprobs, strict=False)
        ]
        return {
            "index": index,
            "message": {"role": "assistant", "content": result.text, "refusal": None},
            "finish_reason": _reason(result.finish_reason),
            "logprobs": self._logprobs(entries),
        }

    def delta(self, index: int, delta: TextDelta) -> JsonObject:
        """A piece of one."""
        entries = []
        if delta.token_id is not None and delta.logprob is not None:
            entries = [self._entry(delta.token_id, delta.logprob, delta.top_logprobs)]
        content = {"content": delta.text} if delta.text else {}
        return self._delta(index, content, _reason(delta.finish_reason), self._logprobs(entries) if entries else None)

    def shows(self, delta: TextDelta) -> bool:
        """See Format."""
        return bool(delta.text or delta.finish_reason or self._has_logprobs)

    def _delta(self, index: int, delta: JsonObject, reason: str | None, logprobs: JsonObject | None) -> JsonObject:
        return {"index": index, "delta": delta, "finish_reason": reason, "logprobs": logprobs}

    def _logprobs(self, entries: list[JsonObject]) -> JsonObject | None:
        return {"content": entries, "refusal": None} if self._has_logprobs else None

    def _entry(self, token_id: int, logprob: float, top: Sequence[tuple[int, float]]) -> JsonObject:
        rivals = [self._rival(other, likelihood) for other, likelihood in top]
        return self._rival(token_id, logprob) | {"top_logprobs": rivals}

    def _rival(self, token_id: int, logprob: float) -> JsonObject:
        token = _token(self._tokenizer, token_id)
        return {
            "token": token,
            "logprob": _finite(logprob),
            "bytes": None if REPLACEMENT in token else list(token.encode()),
        }


class Envelope:
    """What stands around the choices of one answer.

    Args:
        form: of the endpoint.
        model_name: as the client knows it.
    """

    def __init__(self, form: Format, model_name: str) -> None:
        self._form = form
        self._common = {
            "id": f"{form.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model_name,
        }

    def whole(self, choices: list[JsonObject], answer: Answer, prompts: Sequence[Prompt]) -> JsonObject:
        """The answer in one."""
        return {
            **self._common,
            "object": self._form.whole,
            "choices": choices,
            "usage": usage(answer, prompts),
            "timings": timings(answer),
        }

    def chunk(self, choices: list[JsonObject], **more: Any) -> JsonObject:
        """A part of a stream."""
        return {**self._common, "object": self._form.chunk, "choices": choices, **more}


def usage(answer: Answer, prompts: Sequence[Prompt]) -> JsonObject:
    """Tokens: of the prompts, each counted once, and of all texts."""
    prompt_tokens = sum(len(prompt.token_ids) for prompt in prompts)
    new_tokens = sum(text.new_tokens for text in answer.texts)
    n = len(answer.texts) // len(prompts)
    cached = sum(_cached(text) for text in answer.texts[::n])
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": new_tokens,
        "total_tokens": prompt_tokens + new_tokens,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def timings(answer: Answer) -> JsonObject:
    """Where the time went, with llama-server's names: from the first of the texts to the last."""
    texts = answer.texts
    accepted = min(text.accepted_seconds for text in texts)
    begun = min((text.begun_seconds for text in texts if text.begun_seconds is not None), default=accepted)
    first = min((text.first_seconds for text in texts if text.first_seconds is not None), default=begun)
    last = max((text.last_seconds for text in texts if text.last_seconds is not None), default=first)
    cached = sum(_cached(text) for text in texts)
    prompt_tokens = sum(text.sequence.prompt_tokens for text in texts if text.sequence is not None) - cached
    new_tokens = sum(text.new_tokens for text in texts)
    return {
        "queue_ms": _ms(begun - accepted),
        "cache_n": cached,
        "prompt_n": prompt_tokens,
        "prompt_ms": _ms(first - begun),
        "prompt_per_second": _rate(prompt_tokens, first - begun),
        "predicted_n": new_tokens,
        "predicted_ms": _ms(last - first),
        "predicted_per_second": _rate(new_tokens - len(texts), last - first),
    }


def _cached(text: ServedText) -> int:
    return 0 if text.sequence is None else text.sequence.cached_tokens


def _token(tokenizer: Tokenizer, token_id: int) -> str:
    return tokenizer.special_tokens.get(token_id) or tokenizer.decode([token_id])


def _reason(reason: str | None) -> str | None:
    """OpenAI's word: a constrained text that was cut is one that met its length."""
    return "length" if reason == "incomplete" else reason


def _finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 3) if seconds > 0 and count > 0 else 0.0
