"""One text by every way that tokens can arrive: whole, one by one, in chunks, in a batch. The logits must agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from export.probe import GraphProbe
from runtime import contract
from runtime.engine.session import DecoderSession

# Sizes of chunks that are no multiples of a kernel's width, and no divisors of one another.
CHUNK_TOKENS = 7


def cache_path_differences(session: DecoderSession, probe: GraphProbe, token_ids: Sequence[int]) -> dict[str, float]:
    """Largest difference of a logit from the whole text in one pass, over the largest logit.

    For fp32 it is rounding. A precision that scales activations by the tensor (q8) sees other tensors on each path,
    so there it is that precision's noise.

    Args:
        session: runs one sequence over its cache.
        probe: the same graph, for batches.
        token_ids: at least two.

    Returns:
        `{"prefill_decode", "chunks", "batch"}`.
    """
    whole = _in_parts(session, [token_ids])
    half = len(token_ids) // 2
    decoded = _in_parts(session, [token_ids[:half], *([token_id] for token_id in token_ids[half:])])
    chunks = _in_parts(session, list(_chunks(token_ids)))
    # A longer neighbour and a shorter one, so that our row is padded and pads.
    rows = [token_ids, [*token_ids, *token_ids[: half or 1]], token_ids[:half]]
    batch = probe.run(rows)[contract.LOGITS][0, : len(token_ids)]
    largest = float(np.abs(whole).max())
    found = {"prefill_decode": decoded, "chunks": chunks, "batch": batch}
    return {name: float(np.abs(logits - whole).max()) / largest for name, logits in found.items()}


def _in_parts(session: DecoderSession, parts: Sequence[Sequence[int]]) -> np.ndarray:
    """float32 [tokens, vocab_size]: the logits of all parts, one after the other over one cache."""
    cache = session.new_cache(sum(len(part) for part in parts))
    return np.concatenate([session.forward(part, cache, num_logits_to_keep=0) for part in parts])


def _chunks(token_ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (token_ids[start : start + CHUNK_TOKENS] for start in range(0, len(token_ids), CHUNK_TOKENS))
