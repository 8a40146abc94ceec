"""Texts longer than the context, approximately: when it is full, the model goes on from the last half of it.

That half runs again as if nothing had been before it, as nanoGPT does at every token, here once in half a context. So
the model forgets, its positions start anew, and the text is not that of a model with a longer context. Up to the end of
the context it is that of `TextStream`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from runtime.engine.sequence import Sequence
from runtime.engine.session import DecoderSession
from runtime.engine.shared_scheduler import SharedScheduler
from runtime.generation.text_delta import TextDelta
from runtime.generation.text_request import TextRequest
from runtime.generation.text_stream import IsCancelled

ENDLESS = 1 << 40  # tokens: the context of a text that slides


def sliding_deltas(
    text: TextRequest,
    came: deque[TextDelta],
    session: DecoderSession,
    scheduler: SharedScheduler,
    is_cancelled: IsCancelled | None = None,
) -> Iterator[TextDelta]:
    """The pieces of one text as they come. Closing the iterator stops the computation.

    Args:
        text: to generate, in a context of `ENDLESS`.
        came: takes its pieces.
        session: runs the passes.
        scheduler: whose turns on the session this takes, a pass at a time.
        is_cancelled: asked before every token; the text ends once it says yes.
    """
    sequence = Sequence(0, text.request, text.limit)
    context, start = session.shape.max_position_embeddings, 0
    cache = session.new_cache(min(context, len(sequence.token_ids) + text.limit))
    while sequence.finish_reason is None:
        if is_cancelled is not None and is_cancelled():
            yield text.end("cancelled")
            return
        if len(sequence.token_ids) - start >= context:
            start = len(sequence.token_ids) - context // 2
            cache.trim(0)
        with scheduler.turn():
            logits = session.forward(sequence.token_ids[start + cache.length :], cache)[-1]
        sequence.take(logits)
        if sequence.error is not None:
            raise sequence.error
        if came:
            yield came.popleft()
        elif sequence.finish_reason is not None:
            yield text.end(sequence.finish_reason)
