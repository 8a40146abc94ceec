"""A KV cache that knows which tokens it holds, so that what two prompts begin with is computed once."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.kv_cache import KVCache


class PrefixCache:
    """A cache and its tokens.

    Args:
        cache: an empty one.
    """

    def __init__(self, cache: KVCache) -> None:
        self.cache = cache
        self.token_ids: list[int] = []

    def keep_prefix_of(self, prompt_ids: Sequence[int]) -> int:
        """Forget all tokens from the first one that the prompt does not share.

        Returns:
            How many are left: fewer than the prompt has, for its last token must run to give logits.
        """
        most = min(len(self.token_ids), len(prompt_ids) - 1)
        shared = next((place for place in range(most) if self.token_ids[place] != prompt_ids[place]), most)
        self._trim(shared)
        return shared

    def hold(self, token_ids: Sequence[int]) -> None:
        """Say what ran since: of these tokens, from the first of all on, the cache holds as many as its length says.

        What the cache holds beyond them (tokens that were computed and never given out) is forgotten.
        """
        self.token_ids = list(token_ids[: self.cache.length])
        self.cache.trim(len(self.token_ids))

    def _trim(self, length: int) -> None:
        self.token_ids = self.token_ids[:length]
        self.cache.trim(length)
