"""Prefixes computed once: what a prompt shares with an earlier sequence is not prefilled again.

A cache knows which tokens it holds, so nothing can get out of step: an answer that was cut off, or a caller who goes on
from an earlier place, simply shares a shorter prefix.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress

from runtime.engine.kv_cache import KVCache
from runtime.engine.session import DecoderSession
from runtime.errors import OptionError


def exact_granularity(session: DecoderSession, prefill_session: DecoderSession | None = None) -> int:
    """The finest granularity at which reuse changes no bit of any logits.

    In a batch-invariant session that runs its own prompts, every row is the one that a prefill would give. Elsewhere a
    decode gives other bits, and so would prompts that are cut elsewhere.
    """
    if prefill_session is None or prefill_session is session:
        return 1 if session.batch_invariant else session.chunks.reusable_multiple
    return prefill_session.chunks.reusable_multiple


class PromptCache:
    """Keeps the caches of the last few sequences. Threads may share it.

    >>> prompts = PromptCache(session)                                                    # doctest: +SKIP
    >>> cache = prompts.take(prompt_ids)                                                  # doctest: +SKIP
    >>> for token_id in generate_step(session, prompt_ids[cache.length:], cache=cache):   # doctest: +SKIP
    ...     ...
    >>> prompts.give_back(cache)                                                          # doctest: +SKIP

    Logits after a reused prefix are those of a prefill to rounding, and to the bit in a batch-invariant session: rows
    may come from decodes, which sum in another order (docs/decisions/0012).

    Args:
        session: makes the caches; other sessions of its bundle may use them too.
        max_caches: sequences kept; the one given back longest ago goes first.
        granularity_tokens: 1 reuses any prefix. Above 1, multiples of it are reused, and of prompts alone; with
            `exact_granularity` logits are then the bits of a prompt that runs whole.

    Raises:
        OptionError: max_caches below 0, or granularity_tokens below 1.
    """

    def __init__(self, session: DecoderSession, max_caches: int = 4, granularity_tokens: int = 1) -> None:
        if max_caches < 0 or granularity_tokens < 1:
            raise OptionError(f"a prompt cache cannot keep {max_caches} caches by {granularity_tokens} tokens")
        self._session = session
        self._granularity = granularity_tokens
        # The last ones are the newest. Appending takes no lock, so that a generator which the garbage collector ends
        # may give its cache back in any thread, also in one that is taking.
        self._caches: deque[KVCache] = deque(maxlen=max_caches)
        self._taking = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of all caches that are kept."""
        return sum(cache.nbytes for cache in self._caches.copy())

    def take(
        self,
        prompt_ids: Sequence[int],
        capacity_tokens: int = 0,
        *,
        lenders: Iterable[tuple[KVCache, int]] = (),
    ) -> KVCache:
        """A cache that holds the longest known prefix of a prompt, and nothing else; yours until it is given back.

        At least one token of the prompt is left to run: its logits are what a generation starts from. A kept sequence
        of which the prompt shares at least half is handed over; any other stays, and is copied as far as they agree.

        Args:
            prompt_ids: the whole prompt.
            capacity_tokens: room in all, for the prompt and what will be generated.
            lenders: caches in use, and how many of their tokens may be copied.
        """
        with self._taking:
            best, shared = None, 0
            for cache in self._caches.copy():
                if (found := self._shared(cache, cache.length, prompt_ids)) > shared:
                    best, shared = cache, found
            lender = None
            for cache, tokens in lenders:
                if (found := self._shared(cache, tokens, prompt_ids)) > shared:
                    lender, shared = cache, found
            if lender is not None:
                return lender.copy(shared, capacity_tokens)
            if best is None:
                return self._session.new_cache(capacity_tokens)
            if 2 * shared < best.length:
                return best.copy(shared, capacity_tokens)
            with suppress(ValueError):  # it was pushed out meanwhile, which leaves it ours all the same
                self._caches.remove(best)
        best.trim(shared)
        return best

    def reusable_tokens(self, cache: KVCache, prompt_tokens: int) -> int:
        """How many tokens of a cache, whose sequence began with `prompt_tokens`, later prompts may share."""
        if not self._caches.maxlen:
            return 0
        if self._granularity == 1:
            return cache.length
        return min(cache.length, prompt_tokens) // self._granularity * self._granularity

    def shrink(self, max_bytes: int) -> None:
        """Let the oldest go until the rest takes at most this many bytes."""
        while self._caches and self.nbytes > max_bytes:
            with suppress(IndexError):  # another thread has just taken the last one
                self._caches.popleft()

    def give_back(self, cache: KVCache) -> None:
        """Keep a cache, with whatever it holds now, for later prompts."""
        self._caches.append(cache)

    def clear(self) -> None:
        """Forget all."""
        self._caches.clear()

    def _shared(self, cache: KVCache, tokens: int, prompt_ids: Sequence[int]) -> int:
        shared = min(cache.common_prefix(prompt_ids), tokens, len(prompt_ids) - 1)
        return shared // self._granularity * self._granularity
