"""Cuts of a prompt: they cover it, keep near the budget, and change no bit of any logits."""

from __future__ import annotations

import random

import numpy as np
import pytest

from runtime import Bundle, DecoderSession
from runtime.engine.chunks import ChunkRule


def cuts(rule, total, budgets):
    """Where chunks end."""
    ends = [0]
    while ends[-1] < total:
        ends.append(rule.end(ends[-1], total, next(budgets)))
    return ends[1:]


@pytest.mark.parametrize("never_single", [False, True])
def test_chunks_cover_a_prompt_and_keep_near_their_budget(never_single):
    randomness = random.Random(1)
    for _ in range(3000):
        rule = ChunkRule(randomness.choice((16, 64, 256)), query_block=128, never_single=never_single)
        total = randomness.randint(1, 700)
        budget = randomness.randint(1, 80)
        ends = cuts(rule, total, iter(lambda budget=budget: budget, None))
        sizes = np.diff([0, *ends])
        assert ends[-1] == total
        assert (sizes > 0).all()
        assert sizes.max() <= rule.chunk_tokens
        assert sizes[:-1].max(initial=0) <= budget + 2
        assert sizes[:-1].min(initial=2) >= 2
        assert sizes[-1] <= (129 if total % 128 == 1 else budget + 3)


def test_without_a_budget_chunks_are_whole():
    assert ChunkRule(256, 128).bounds(700) == [0, 256, 512, 700]
    assert ChunkRule(256, 128).bounds(257) == [0, 256, 257]
    assert ChunkRule(256, 128, never_single=True).bounds(257) == [0, 255, 257]
    assert ChunkRule(256, 128, never_single=True).bounds(273) == [0, 256, 271, 273]
    assert ChunkRule(256, 128, is_divisible=False).end(0, 700, 16) == 256


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("batch_invariant", [False, True])
def test_logits_are_the_same_bits_however_small_the_chunks(batch_invariant, precision, stories260k_bundle):
    session = DecoderSession(
        Bundle.open(stories260k_bundle), precision, threads=1, chunk_tokens=64, batch_invariant=batch_invariant
    )
    randomness = random.Random(0)
    for total in (2, 9, 16, 17, 18, 25, 33, 49, 64, 65, 66, 80, 81, 97, 129, 145, 193):
        ids = np.random.default_rng(total).integers(3, 500, total).tolist()
        whole = session.forward(ids, session.new_cache())[0]
        for budget in (1, 6, 24, None):
            cache = session.new_cache()
            start = 0
            while start < total:
                limit = randomness.choice((2, 5, 16, 40)) if budget is None else budget
                end = session.chunks.end(start, total, limit)
                logits, start = session.forward(ids[start:end], cache), end
            np.testing.assert_array_equal(logits[0], whole, err_msg=f"{total} tokens by {budget}")
