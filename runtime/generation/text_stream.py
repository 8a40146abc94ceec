"""A stream of text: the loop on token ids, one continuation of one prompt, and a caller who may stop it.

A long prompt runs chunk by chunk, so that it can be stopped too, and other threads come in between.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import pairwise

from runtime.engine.kv_cache import KVCache
from runtime.engine.session import DecoderSession
from runtime.generation.chunk import Chunk
from runtime.generation.continuation import Continuation

IsCancelled = Callable[[], bool]
# From the prompt's last tokens, and the cache that holds those before them, to the new ones.
Steps = Callable[[Sequence[int], KVCache], Generator[int]]


class TextStream:
    """One generation. Iterating over `chunks()` computes; making the stream does not.

    Args:
        continuation: of the prompt.
        prompt_ids: the prompt, whole.
        steps: the loop on ids, with the continuation's sampler and processors.
        cache: may hold a beginning of the prompt, which is not computed again; what it holds else is forgotten.
        prefill_session: runs all chunks of a long prompt but the last, which the loop runs; None leaves all to it.
        is_cancelled: asked before every token and chunk; the stream ends once it says yes. Any thread may make it so.
        release: called with the cache when the stream has ended, finished, left or failed; it holds the prompt and all
            tokens but the last then. A stream that never began keeps its cache.
        lock: held while a token or a chunk is computed, so that threads may share a session.

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
        prefill_session: DecoderSession | None = None,
        is_cancelled: IsCancelled | None = None,
        release: Callable[[KVCache], object] | None = None,
        lock: AbstractContextManager[object],
    ) -> None:
        self._continuation = continuation
        # The last token must run in any case: its logits are what the text starts from.
        self.held_tokens = min(cache.common_prefix(prompt_ids), len(prompt_ids) - 1)
        cache.trim(self.held_tokens)
        new_ids = prompt_ids[self.held_tokens :]
        self._chunks: list[Callable[[], object]] = []
        if prefill_session is not None:
            *bounds, _ = prefill_session.chunk_bounds(len(new_ids))
            self._chunks = [partial(prefill_session.forward, new_ids[a:b], cache) for a, b in pairwise(bounds)]
            new_ids = new_ids[bounds[-1] :]
        # Begun when all before is in the cache, for it takes from there what processors see.
        self._begin = partial(steps, new_ids, cache)
        self._steps: Generator[int] | None = None
        self._is_cancelled = is_cancelled or _never
        self._cache, self._release = cache, release
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
        """The pieces as they come, once. Closing the iterator stops the computation."""
        try:
            while True:
                if self._is_cancelled():
                    yield self._continuation.end("cancelled")
                    return
                token_id = self._advance()
                if token_id is None:
                    continue
                chunk = self._continuation.push(token_id)
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            if self._steps is not None:
                self._steps.close()  # so that the cache holds what was given out, and no guesses
            release, self._release = self._release, None
            if release is not None:
                release(self._cache)

    def _advance(self) -> int | None:
        """The next token, or None after a chunk of the prompt."""
        with self._lock:
            if self._chunks:
                self._chunks.pop(0)()
                return None
            self._steps = self._steps or self._begin()
            return next(self._steps)


def _never() -> bool:
    return False
