"""A stream of text: one sequence of a shared scheduler, and a caller who may stop it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from runtime.engine.sequence import Sequence
from runtime.engine.shared_scheduler import SharedScheduler
from runtime.generation.text_delta import TextDelta
from runtime.generation.text_request import TextRequest

IsCancelled = Callable[[], bool]


class TextStream:
    """One generation. Iterating over `deltas()` computes; making the stream does not.

    Args:
        make_request: of the text, given what takes its pieces.
        scheduler: runs the sequence beside those of other streams.
        is_cancelled: asked before every token and every chunk of a long prompt; the stream ends once it says yes. Any
            thread may make it so.
    """

    def __init__(
        self,
        make_request: Callable[[Callable[[TextDelta], object]], TextRequest],
        scheduler: SharedScheduler,
        *,
        is_cancelled: IsCancelled | None = None,
    ) -> None:
        self._came: deque[TextDelta] = deque()
        self._text = make_request(self._receive)
        self._scheduler = scheduler
        self._is_cancelled = is_cancelled or _never
        self._sequence: Sequence | None = None
        self._given_tokens = 0
        self._is_used = False

    @property
    def cached_tokens(self) -> int:
        """How many of the prompt's tokens were not computed; known once the first piece has come."""
        return 0 if self._sequence is None else self._sequence.cached_tokens

    @property
    def new_ids(self) -> list[int]:
        """The tokens given out so far, without the one that stopped the text."""
        return self._text.new_ids[: self._given_tokens]

    @property
    def is_cut(self) -> bool:
        """Whether a stop string ended the text, so that it is shorter than that of the new ids."""
        return self._text.is_cut

    def deltas(self) -> Iterator[TextDelta]:
        """The pieces as they come, once. Closing the iterator stops the computation."""
        if self._is_used:
            raise RuntimeError("a stream can be read once")
        self._is_used = True
        sequence = self._sequence = self._scheduler.add(self._text.request)
        try:
            while True:
                if self._is_cancelled():
                    yield self._text.end("cancelled")
                    return
                delta = self._next(sequence)
                if delta is not None:
                    yield delta
                    if delta.finish_reason is not None:
                        return
        finally:
            self._scheduler.leave(sequence)
            cache = self._text.request.cache
            if cache is not None and self._came:  # the caller goes on from what was given out
                cache.trim(min(cache.length, len(self._text.request.prompt_ids) + max(0, self._given_tokens - 1)))

    def _receive(self, delta: TextDelta) -> None:
        self._came.append(delta)
        if self._sequence is not None:
            self._sequence.is_paused = True

    def _next(self, sequence: Sequence) -> TextDelta | None:
        """The next piece, or None after a chunk of the prompt."""
        if not self._came:
            self._scheduler.advance(sequence)
        if self._came:
            delta = self._came.popleft()
            sequence.is_paused = bool(self._came)
            self._given_tokens += delta.token_id is not None
            return delta
        if sequence.error is not None:
            raise sequence.error
        return None if sequence.finish_reason is None else self._text.end(sequence.finish_reason)


def _never() -> bool:
    return False
