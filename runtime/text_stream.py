"""A stream of text: the loop on token ids, one continuation of one prompt, and a caller who may stop it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager

from runtime.chunk import Chunk
from runtime.continuation import Continuation
from runtime.kv_cache import KVCache

IsCancelled = Callable[[], bool]
# From the prompt's tokens that are still to run, and the cache that holds those before them, to the new ones.
Steps = Callable[[Sequence[int], KVCache], Generator[int]]


class TextStream:
    """One generation. Iterating over `chunks()` computes; making the stream does not.

    Args:
        continuation: of the prompt.
        prompt_ids: the prompt, whole.
        steps: the loop on ids, with the continuation's sampler and processors.
        cache: may hold a beginning of the prompt, which is not computed again; what it holds else is forgotten.
        is_cancelled: asked before every token; the stream ends once it says yes. Any thread may make it so.
        lock: held while a token is computed, so that threads may share a session.

    Attributes:
        held_tokens: how many of the prompt's tokens need not be computed.
    """

    def __init__(
        self,
        continuation: Continuation,
        prompt_ids: Sequence[int],
        steps: Steps,
        cache: KVCache,
        *,
        is_cancelled: IsCancelled | None = None,
        lock: AbstractContextManager[object],
    ) -> None:
        self._continuation = continuation
        # The last token must run in any case: its logits are what the text starts from.
        self.held_tokens = min(cache.common_prefix(prompt_ids), len(prompt_ids) - 1)
        cache.trim(self.held_tokens)
        self._steps = steps(prompt_ids[self.held_tokens :], cache)
        self._is_cancelled = is_cancelled or _never
        self._lock = lock

    @property
    def new_ids(self) -> list[int]:
        """The tokens so far, without the one that stopped it."""
        return self._continuation.new_ids

    @property
    def is_cut(self) -> bool:
        """Whether a stop string ended the text, so that it is shorter than that of the new ids."""
        return self._continuation.is_cut

    def chunks(self) -> Iterator[Chunk]:
        """The pieces as they come. Closing the iterator stops the computation."""
        try:
            while True:
                if self._is_cancelled():
                    yield self._continuation.end("cancelled")
                    return
                with self._lock:
                    token_id = next(self._steps)
                chunk = self._continuation.push(token_id)
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            self._steps.close()  # so that the cache holds what was given out, and no guesses


def _never() -> bool:
    return False
