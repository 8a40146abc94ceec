"""The cache changes nothing but the time: in place or copied, in chunks or at once, trimmed or grown."""

from __future__ import annotations

import numpy as np
import pytest

from runtime import Bundle, DecoderSession, SamplingOptions
from runtime.bundle import ModelShape
from runtime.engine.kv_cache import GRANULARITY_TOKENS, KVCache
from runtime.errors import PromptError
from runtime.generation.generate import generate_step
from runtime.sampling.sampler import make_sampler
from tests.runtime.options import token_ids

CASES = [("tiny", "fp32"), ("tiny", "int8"), ("stories260k", "fp32"), ("stories260k", "int8"), ("stories260k", "q8")]
SHAPE = ModelShape(vocab_size=7, num_hidden_layers=2, num_key_value_heads=3, head_dim=4, max_position_embeddings=200)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def sessions(request):
    """The same graph twice: written in place, and copied at every step."""
    name, precision = request.param
    bundle = Bundle.open(request.getfixturevalue(f"{name}_bundle"))
    return tuple(DecoderSession(bundle, precision, threads=1, in_place=in_place) for in_place in (True, False))


def random_ids(session, count, seed=0):
    return np.random.default_rng(seed).integers(3, session.shape.vocab_size, count).tolist()


def run(session, chunks, cache=None):
    """Logits of every position, over chunks."""
    cache = session.new_cache() if cache is None else cache
    return np.concatenate([session.forward(chunk, cache, num_logits_to_keep=0) for chunk in chunks])


def assert_close(found, expected, precision):
    # Sums in another order turn an activation of int8 and q8 by a whole step of its rounding.
    tolerance = {"fp32": 2e-5, "int8": 0.03, "q8": 0.08}[precision]
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("sizes", [[1], [7], [100, 1, 1, 1], [1] * 70, [30, 34, 1, 60, 1], [63, 1, 1], [64, 64, 2]])
def test_in_place_gives_the_logits_of_its_plain_twin(sizes, sessions):
    ids = random_ids(sessions[0], sum(sizes))
    chunks = np.split(ids, np.cumsum(sizes)[:-1])
    in_place, plain = (run(session, chunks) for session in sessions)
    np.testing.assert_allclose(in_place, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [[50, 50], [1, 99], [99, 1], [33] * 3 + [1], [1] * 100])
def test_chunks_give_the_logits_of_the_whole(sizes, sessions):
    session = sessions[0]
    ids = random_ids(session, 100)
    assert_close(run(session, np.split(ids, np.cumsum(sizes)[:-1])), run(session, [ids]), session.precision)


def test_up_to_the_full_context_and_not_one_token_further(sessions):
    context = sessions[0].shape.max_position_embeddings
    ids = random_ids(sessions[0], context)
    found = []
    for session in sessions:
        cache = session.new_cache()
        session.forward(ids[:-3], cache)
        found.append(run(session, [[token_id] for token_id in ids[-3:]], cache))
        assert cache.length == context
        with pytest.raises(PromptError, match=str(context)):
            session.forward([5], cache)
        assert cache.length == context
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-5)


def test_a_trimmed_cache_is_as_one_that_never_saw_the_rest(sessions):
    for session in sessions:
        ids, other = random_ids(session, 60), random_ids(session, 40, seed=1)
        cache = session.new_cache()
        session.forward(ids, cache)
        cache.trim(25)
        assert cache.length == 25
        found = run(session, [other[:30], other[30:31]], cache)
        fresh = session.new_cache()
        session.forward(ids[:25], fresh)
        assert_close(found, run(session, [other[:30], other[30:31]], fresh), session.precision)


def test_growing_across_the_granularity_keeps_what_is_held(sessions):
    session = sessions[0]
    ids = random_ids(session, GRANULARITY_TOKENS + 3)
    small, large = session.new_cache(1), session.new_cache(len(ids))
    assert small.capacity_tokens == GRANULARITY_TOKENS
    chunks = [ids[: GRANULARITY_TOKENS - 1], *([token_id] for token_id in ids[GRANULARITY_TOKENS - 1 :])]
    np.testing.assert_allclose(run(session, chunks, small), run(session, chunks, large), rtol=1e-6, atol=1e-6)
    assert small.capacity_tokens > GRANULARITY_TOKENS


def test_two_sequences_may_take_turns_on_one_session(sessions):
    session = sessions[0]
    prompts = [random_ids(session, 9, seed) for seed in (1, 2)]
    apart = [token_ids(generate_step(session, prompt, stop_token_ids=(), max_new_tokens=20)) for prompt in prompts]
    streams = [generate_step(session, prompt, stop_token_ids=(), max_new_tokens=20) for prompt in prompts]
    taken_in_turns = zip(*zip(*streams, strict=True), strict=True)
    assert [token_ids(tokens) for tokens in taken_in_turns] == apart


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_in_place_and_plain_generate_the_same_tokens(temperature, sessions):
    tokens = 40 if sessions[0].precision == "q8" else sessions[0].shape.max_position_embeddings - 5
    sampling = SamplingOptions(temperature=temperature, seed=3)
    prompt = random_ids(sessions[0], 5)
    first, second = (
        token_ids(
            generate_step(session, prompt, stop_token_ids=(), max_new_tokens=tokens, sampler=make_sampler(sampling))
        )
        for session in sessions
    )
    assert len(first) == tokens
    assert first == second


@pytest.mark.parametrize(("asked", "capacity"), [(0, 64), (1, 64), (64, 64), (65, 128), (150, 192), (193, 200)])
def test_a_cache_has_room_for_what_is_asked_in_whole_steps_and_no_more_than_the_context(asked, capacity):
    cache = KVCache(SHAPE, asked)
    assert cache.capacity_tokens == capacity
    assert cache.nbytes == 2 * 2 * 3 * capacity * 4 * 4  # key and value, layers, heads, tokens, head_dim, bytes


def test_reserving_moves_the_buffers_only_when_they_are_too_small():
    cache = KVCache(SHAPE, 10)
    assert not cache.reserve(64)
    assert cache.reserve(65)
    assert cache.capacity_tokens == 128
    with pytest.raises(PromptError, match="201 tokens do not fit the context of 200"):
        cache.reserve(201)


@pytest.mark.parametrize("length", [-1, 6])
def test_a_cache_cannot_be_trimmed_to_what_it_does_not_hold(length):
    cache = KVCache(SHAPE, 10)
    cache.add(range(5))
    with pytest.raises(ValueError, match="cannot trim"):
        cache.trim(length)
