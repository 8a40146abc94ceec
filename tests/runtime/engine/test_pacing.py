"""Chunks between steps keep to the pause that they may take, whatever they cost."""

from __future__ import annotations

import random

import pytest

from runtime.engine.pacing import LEAST_BUDGET_TOKENS, Pacing


def pauses(fixed, a_token, step, count, pause=1.5):
    """How long chunks take, in steps, on a machine where they cost this many seconds."""
    pacing, found = Pacing(pause), []
    for _ in range(count):
        pacing.decoded(step)
        tokens = pacing.budget_tokens() // 2 * 2  # as they are cut
        seconds = fixed + a_token * tokens
        pacing.paused(tokens, seconds)
        found.append(seconds / step)
    return found, pacing


@pytest.mark.parametrize("a_token", [1e-4, 1e-3, 4e-3])
@pytest.mark.parametrize("fixed", [0.0, 0.01, 0.02])
def test_a_pause_comes_near_to_what_is_allowed_and_stays_below_two_steps(fixed, a_token):
    found, _ = pauses(fixed, a_token, step=0.025, count=200)
    assert all(1.1 < pause < 2 for pause in found[60:])


def test_where_even_the_least_is_too_long_the_least_runs():
    _, pacing = pauses(0.1, 0.01, step=0.02, count=50)
    assert pacing.budget_tokens() == LEAST_BUDGET_TOKENS


def test_one_hiccup_is_forgotten():
    _, pacing = pauses(0.01, 1e-3, step=0.025, count=100)
    before = pacing.budget_tokens()
    pacing.paused(before, 1.0)
    assert pacing.budget_tokens() >= before // 2
    for _ in range(10):
        pacing.decoded(0.025)
        pacing.paused(pacing.budget_tokens(), 0.01 + 1e-3 * pacing.budget_tokens())
    assert pacing.budget_tokens() > 0.8 * before


def test_a_prompts_last_tokens_do_not_make_chunks_longer():
    pacing, randomness = Pacing(1.5), random.Random(0)
    pacing.decoded(1.0)
    before = pacing.budget_tokens()
    for _ in range(50):
        pacing.paused(randomness.randint(1, before - 2), 0.01)
    assert pacing.budget_tokens() == before


def test_many_who_wait_for_few_may_take_longer_in_proportion():
    """Seven prompts wait while one sequence decodes: a chunk may take seven times the usual pause."""
    pacing = Pacing(0.9)
    for _ in range(100):
        pacing.decoded(0.006)
        tokens = pacing.budget_tokens(7)
        pacing.paused(tokens, 0.005 + 0.001 * tokens, 7)
    assert 25 <= pacing.budget_tokens(7) <= 40  # 38 ms
    for _ in range(20):
        tokens = pacing.budget_tokens()
        pacing.paused(tokens, 0.005 + 0.001 * tokens)
    assert pacing.budget_tokens() == LEAST_BUDGET_TOKENS
