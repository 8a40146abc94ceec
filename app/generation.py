"""A generation as the page sees it: the text so far and what it costs, a few times a second.

Nothing is computed unless the next piece is asked for: a visitor who leaves costs nothing more, for
nobody iterates any longer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from app.models import Models
from runtime.engine.sequence import FinishReason
from runtime.generation.text_delta import Generation, TextDelta
from runtime.sampling.options import SamplingOptions

# A browser shows no more than this, and a small model makes tokens faster than a page can be sent.
UPDATE_SECONDS = 0.05


@dataclass(frozen=True)
class Request:
    """What a visitor asks for.

    Attributes:
        prompt: the text to continue; empty starts from the BOS token.
        precision: one of the bundle's.
        sampling: how tokens are drawn and when the text ends; max_new_tokens is cut to what the context has room for.
    """

    prompt: str
    precision: str
    sampling: SamplingOptions


@dataclass(frozen=True)
class Progress:
    """A generation at one moment.

    Attributes:
        request: what was asked for.
        limit_tokens: how many new tokens there will be at most: max_new_tokens, or less where the context is full.
        generation: the new text so far and its cost. The times are the model's alone, without the page's.
        finish_reason: None while it runs; "cancelled" where the visitor pressed Stop.
    """

    request: Request
    limit_tokens: int
    generation: Generation
    finish_reason: FinishReason | None = None


def stream(
    models: Models, request: Request, stop: threading.Event, *, update_seconds: float = UPDATE_SECONDS
) -> Iterator[Progress]:
    """Continue the prompt: the first token at once, then an update at most every so often, the last with the end.

    Args:
        models: what computes.
        request: what to compute.
        stop: once set, by another thread, no further token is computed.
        update_seconds: the time between two updates at least.

    Raises:
        SmolTextError: the request cannot be met; says why.
    """
    model = models.get(request.precision)
    prompt_ids = model.tokenizer.encode_prompt(request.prompt)
    room = models.bundle.shape.max_position_embeddings - len(prompt_ids)
    # Without any room the runtime says what is wrong with the prompt, so it is asked for one token in any case.
    limit = max(1, min(request.sampling.max_new_tokens or room, room))
    sampling = replace(request.sampling, max_new_tokens=limit)
    text = model.start(prompt_ids, sampling, is_cancelled=stop.is_set)
    deltas, generation = text.deltas(), Generation(prompt_tokens=len(prompt_ids))
    shown_seconds = float("-inf")
    finish_reason: FinishReason | None = None
    while finish_reason is None:
        started_seconds = time.perf_counter()
        delta = next(deltas)
        now_seconds = time.perf_counter()
        generation.cached_tokens = text.cached_tokens
        _add(generation, delta, now_seconds - started_seconds)
        finish_reason = delta.finish_reason
        if finish_reason or now_seconds - shown_seconds >= update_seconds:
            shown_seconds = now_seconds
            yield Progress(request, limit, _copy(generation), finish_reason)


def _add(generation: Generation, delta: TextDelta, seconds: float) -> None:
    is_first = not generation.token_ids
    generation.add(delta)
    if delta.token_id is None:
        return
    if is_first:
        generation.time_to_first_token_seconds = seconds
    else:
        generation.decode_seconds += seconds


def _copy(generation: Generation) -> Generation:
    return replace(generation, token_ids=list(generation.token_ids))
