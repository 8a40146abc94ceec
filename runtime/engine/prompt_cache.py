"""Prefixes computed once: what an earlier prompt shares with a new one is not prefilled again.

A cache knows which tokens it holds, so nothing can get out of step: an answer that was cut off, or a caller who goes on
from an earlier place, simply shares a shorter prefix.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from runtime.engine.kv_cache import KVCache
from runtime.engine.session import DecoderSession
from runtime.errors import OptionError


class PromptCache:
    """Keeps the caches of the last few sequences. Threads may share it.

    >>> prompts = PromptCache(session)                                                    # doctest: +SKIP
    >>> cache = prompts.take(prompt_ids)                                                  # doctest: +SKIP
    >>> for token_id in generate_step(session, prompt_ids[cache.length:], cache=cache):   # doctest: +SKIP
    ...     ...
    >>> prompts.give_back(cache)                                                          # doctest: +SKIP

    Logits after a reused prefix are those of a prefill to rounding, and to the bit where the session is exact: its rows
    may come from decodes, which sum in another order (docs/decisions/0012).

    Args:
        session: makes the caches; other sessions of its bundle may use them too.
        max_caches: sequences kept; the one that was longest ago given back goes first.
        granularity_tokens: prefixes of multiples of so many tokens are reused.

    Raises:
        OptionError: max_caches below 0, or granularity_tokens below 1.
    """

    def __init__(self, session: DecoderSession, max_caches: int = 4, granularity_tokens: int = 1) -> None:
        if max_caches < 0 or granularity_tokens < 1:
            raise OptionError(f"a prompt cache cannot keep {max_caches} caches by {granularity_tokens} tokens")
        self._session = session
        self._granularity = granularity_tokens
        # The last ones are the newest. Appending takes no lock: the garbage collector may end a stream, which gives its
        # cache back, at any time in any thread, also in one that is taking.
        self._caches: deque[KVCache] = deque(maxlen=max_caches)
        self._taking = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of all caches that are kept."""
        return sum(cache.nbytes for cache in self._caches.copy())

    def take(self, prompt_ids: Sequence[int], capacity_tokens: int = 0) -> KVCache:
        """A cache that holds the longest known prefix of a prompt, and nothing else; yours until it is given back.

        At least one token of the prompt is left to run: its logits are what a generation starts from. A sequence of
        which the prompt shares at least half is handed over; any other is kept, and copied as far as they agree, at the
        speed of memory.

        Args:
            prompt_ids: the whole prompt.
            capacity_tokens: room in all, for the prompt and what will be generated.
        """
        with self._taking:
            best = max(self._caches.copy(), key=lambda cache: cache.common_prefix(prompt_ids), default=None)
            shared = min(best.common_prefix(prompt_ids), len(prompt_ids) - 1) if best is not None else 0
            shared -= shared % self._granularity
            if best is None or shared <= 0:
                return self._session.new_cache(capacity_tokens)
            if 2 * shared < best.length:
                return best.copy(shared, capacity_tokens)
            with suppress(ValueError):  # it was pushed out meanwhile, which leaves it ours all the same
                self._caches.remove(best)
        best.trim(shared)
        return best

    def give_back(self, cache: KVCache) -> None:
        """Keep a cache, with whatever it holds now, for later prompts."""
        self._caches.append(cache)

    def clear(self) -> None:
        """Forget all."""
        self._caches.clear()
