"""A row of a batch says what it would say alone, whoever is beside it."""

from __future__ import annotations

import numpy as np
import pytest

from runtime import Bundle, DecoderSession, SamplingOptions
from runtime.errors import OptionError, PromptError
from runtime.generation.generate import Request, generate_batch, generate_step
from runtime.sampling.sampler import make_sampler
from tests.runtime.options import token_ids

CASES = [("tiny", "fp32"), ("tiny", "int8"), ("stories260k", "fp32"), ("stories260k", "int8")]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def session(request):
    name, precision = request.param
    return DecoderSession(Bundle.open(request.getfixturevalue(f"{name}_bundle")), precision, threads=1)


def prompts(session, count):
    random = np.random.default_rng(count)
    return [random.integers(3, session.shape.vocab_size, random.integers(1, 60)).tolist() for _ in range(count)]


def sampler(seed):
    return make_sampler(SamplingOptions(temperature=1.0, seed=seed))


def batch(session, requests, **options):
    """The rows in the order of the requests."""
    return sorted(generate_batch(session, requests, **options), key=lambda row: row.index)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_a_row_has_the_tokens_that_it_has_alone(batch_size, session):
    given = prompts(session, 7)
    requests = [Request(prompt, 5 + 7 * seed, sampler(seed), stop_token_ids=()) for seed, prompt in enumerate(given)]
    rows = batch(session, requests, batch_size=batch_size)
    for seed, (prompt, row) in enumerate(zip(given, rows, strict=True)):
        alone = generate_step(session, prompt, stop_token_ids=(), max_new_tokens=5 + 7 * seed, sampler=sampler(seed))
        assert row.new_ids == token_ids(alone)
        assert row.finish_reason == "length"


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_the_logits_of_a_step_are_the_bits_of_a_step_alone(batch_invariant, session, request):
    if session.precision != "int8" and not batch_invariant:
        pytest.skip("floats are summed in another order for one row than for several")
    bundle = Bundle.open(request.getfixturevalue(f"{request.node.callspec.params['session'][0]}_bundle"))
    session = DecoderSession(bundle, session.precision, threads=1, batch_invariant=batch_invariant)
    seen = {size: [] for size in (1, 5)}
    for size, logits_seen in seen.items():

        def record(token_ids, logits, logits_seen=logits_seen):
            logits_seen.append((tuple(token_ids), logits.copy()))
            return logits

        requests = [
            Request(prompt, 12, logits_processors=[record], stop_token_ids=()) for prompt in prompts(session, 5)
        ]
        batch(session, requests, batch_size=size)
    alone, together = (sorted(calls, key=lambda call: call[0]) for calls in seen.values())
    assert [ids for ids, _ in alone] == [ids for ids, _ in together]
    for (_, first), (_, second) in zip(alone, together, strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_row_that_stops_leaves_its_place_to_the_next(session):
    given = prompts(session, 9)
    stops = [token_ids(generate_step(session, prompt, stop_token_ids=(), max_new_tokens=30))[-1] for prompt in given]
    requests = [Request(p, 30, stop_token_ids=(stop,)) for p, stop in zip(given, stops, strict=True)]
    for row, prompt in zip(batch(session, requests, batch_size=3), given, strict=True):
        ids = token_ids(generate_step(session, prompt, stop_token_ids=(), max_new_tokens=30))
        assert row.new_ids == ids[: ids.index(ids[-1])]
        assert row.finish_reason == "stop"


def test_n_tokens_cost_one_prefill_each_and_n_minus_1_passes_together(session, monkeypatch):
    prefills, steps = [], []
    forward = DecoderSession.forward
    monkeypatch.setattr(
        DecoderSession, "forward", lambda self, ids, cache: (prefills.append(len(ids)), forward(self, ids, cache))[1]
    )
    bind = DecoderSession.bind

    def counting(self, buffers):
        binding = bind(self, buffers)
        step = binding.step
        binding.step = lambda ids, lengths: (steps.append(len(ids)), step(ids, lengths))[1]
        return binding

    monkeypatch.setattr(DecoderSession, "bind", counting)
    list(generate_batch(session, [Request([5] * size, 10, stop_token_ids=()) for size in (3, 4, 5)], batch_size=3))
    assert (prefills, steps) == ([3, 4, 5], [3] * 9)


def test_a_graph_that_cannot_write_in_place_gives_the_same(session, tiny_bundle):
    plain = DecoderSession(Bundle.open(tiny_bundle), "fp32", threads=1, in_place=False)
    in_place = DecoderSession(Bundle.open(tiny_bundle), "fp32", threads=1)
    requests = [Request(prompt, 20, stop_token_ids=()) for prompt in prompts(plain, 4)]
    assert [row.new_ids for row in batch(plain, requests)] == [row.new_ids for row in batch(in_place, requests)]


def test_one_bad_request_is_refused_before_any_is_run(session):
    with pytest.raises(PromptError, match="no tokens"):
        generate_batch(session, [Request([5, 6], 3), Request([], 3)])
    with pytest.raises(OptionError, match="max_new_tokens"):
        generate_batch(session, [Request([5, 6], 3), Request([5], 0)])
    with pytest.raises(OptionError, match="batch_size must be at least 1, not 0"):
        generate_batch(session, [Request([5, 6], 3)], batch_size=0)
    assert list(generate_batch(session, [])) == []
