"""What a draw chooses from is what transformers would choose from, and draws follow it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from runtime import SamplingOptions
from runtime.errors import NumericError, OptionError
from runtime.sampling.sampler import _draw, distribution, greedy, make_sampler

OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
FOUR = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))


def options(**changes):
    return SamplingOptions(**(OFF | changes))


def dense(logits, sampling):
    """The distribution as probabilities of the whole vocabulary."""
    ids, kept = distribution(logits, sampling)
    assert len(set(ids.tolist())) == len(ids)
    probabilities = np.zeros(len(logits))
    probabilities[ids] = kept
    return probabilities


def random_logits(vocab_size, seed):
    """No two alike, flatter or more peaked by the seed."""
    random = np.random.default_rng([vocab_size, seed])
    logits = random.normal(0, random.uniform(0.3, 5), vocab_size).astype(np.float32)
    assert len(np.unique(logits)) == vocab_size
    return logits


# Probabilities 0.1, 0.4, 0.2, 0.3 of four tokens. Worked out by hand.
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [0.1, 0.4, 0.2, 0.3]),
        ({"temperature": 0.5}, [1 / 30, 16 / 30, 4 / 30, 9 / 30]),  # squares, over their sum 0.30
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 9}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_p": 0.35}, [0, 1, 0, 0]),  # the first token alone holds 0.4
        ({"top_p": 0.6}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.85}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"min_p": 0.45}, [0, 4 / 9, 2 / 9, 3 / 9]),  # the limit is 0.45 · 0.4 = 0.18
        ({"min_p": 0.7}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 3, "top_p": 0.7}, [0, 4 / 7, 0, 3 / 7]),  # of the three, 0.4 / 0.9 + 0.3 / 0.9 = 0.78
        ({"top_p": 0.95, "min_p": 0.6}, [0, 4 / 7, 0, 3 / 7]),
        ({"temperature": 0.5, "top_p": 0.8}, [0, 16 / 25, 0, 9 / 25]),  # 16/30 + 9/30 = 0.83
        # The entropy is 1.28 nats; -ln p is 2.30, 0.92, 1.61, 1.20: the nearest are the fourth, the third, the second.
        ({"typical_p": 0.2}, [0, 0, 0, 1]),
        ({"typical_p": 0.4}, [0, 0, 0.4, 0.6]),
        ({"typical_p": 0.8}, [0, 4 / 9, 2 / 9, 3 / 9]),
    ],
)
def test_four_tokens_have_the_distribution_worked_out_by_hand(changes, expected):
    np.testing.assert_allclose(dense(FOUR, options(**changes)), expected, atol=1e-6)


@pytest.mark.parametrize("vocab_size", [50, 700, 5000])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    list(itertools.product((0.6, 1.0, 1.7), (0, 1, 20), (1.0, 0.9, 0.3), (0.0, 0.05))),
)
def test_every_combination_of_filters_keeps_what_transformers_keeps(vocab_size, temperature, top_k, top_p, min_p):
    torch = pytest.importorskip("torch")
    warpers = pytest.importorskip("transformers.generation.logits_process")
    chain = [warpers.TemperatureLogitsWarper(temperature)]
    chain += [warpers.TopKLogitsWarper(top_k)] if top_k else []
    chain += [warpers.TopPLogitsWarper(top_p)] if top_p < 1 else []
    chain += [warpers.MinPLogitsWarper(min_p)] if min_p else []
    for seed in range(4):
        logits = random_logits(vocab_size, seed)
        scores = torch.from_numpy(logits)[None]
        for warper in chain:
            scores = warper(None, scores)
        expected = scores.softmax(-1)[0].numpy()
        found = dense(logits, options(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p))
        np.testing.assert_array_equal(found > 0, expected > 0)
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0, 4.0, 40.0], ids=lambda spread: f"spread {spread}")
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_top_p_by_a_short_list_keeps_what_a_full_sort_keeps(spread, top_p):
    logits = np.random.default_rng(1).normal(0, spread, 49_152).astype(np.float32)
    probabilities = np.exp(logits.astype(np.float64) - logits.max())
    order = np.argsort(-logits, kind="stable")
    mass = np.cumsum(probabilities[order]) / probabilities.sum()
    expected = order[: np.searchsorted(mass, top_p) + 1]
    ids, kept = distribution(logits, options(top_p=top_p))
    ids = ids[np.argsort(-logits[ids], kind="stable")]
    # The sum of 49,152 float32 numbers may round past a token at the limit.
    assert abs(len(ids) - len(expected)) <= max(1, len(expected) // 20_000)
    shared = min(len(ids), len(expected))
    np.testing.assert_allclose(logits[ids[:shared]], logits[expected[:shared]], rtol=1e-5, atol=1e-5)  # up to ties
    assert kept.sum() == pytest.approx(1)


@pytest.mark.parametrize("top_k", [1, 2, 7, 50])
def test_top_k_keeps_exactly_k_even_at_ties(top_k):
    ids, probabilities = distribution(np.zeros(50, np.float32), options(top_k=top_k))
    assert ids.tolist() == list(range(top_k))
    np.testing.assert_allclose(probabilities, 1 / top_k)


def test_temperature_zero_is_deterministic_and_takes_the_first_of_equals():
    sample = make_sampler(options(temperature=0.0))
    assert sample is greedy
    assert {sample(np.array([1, 3, 3, 2], np.float32)) for _ in range(20)} == {1}


def test_the_same_seed_draws_the_same_tokens_and_another_seed_others():
    logits = [random_logits(500, seed) for seed in range(50)]

    def drawn(seed):
        sample = make_sampler(options(temperature=1.5, seed=seed))
        return [sample(row) for row in logits]

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)
    assert drawn(None) != drawn(None)


@pytest.mark.parametrize(
    "changes", [{}, {"top_k": 12}, {"top_p": 0.8}, {"min_p": 0.2}, {"typical_p": 0.5}, {"temperature": 2.0}]
)
def test_draws_follow_the_distribution(changes):
    logits, draws = random_logits(30, 7) / 4, 20_000
    expected = dense(logits, options(**changes)) * draws
    sample = make_sampler(options(seed=11, **changes))
    counts = np.bincount([sample(logits) for _ in range(draws)], minlength=30)
    kept = expected > 0
    assert not counts[~kept].any()
    chi_square = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    degrees = int(kept.sum()) - 1
    assert chi_square < degrees + 4 * np.sqrt(2 * degrees)  # four standard deviations


@pytest.mark.parametrize("temperature", [1e-300, 1e-46, 1e-39, 1e-9])
def test_a_temperature_near_zero_is_greedy(temperature):
    logits = random_logits(100, 0)
    np.testing.assert_allclose(dense(logits, options(temperature=temperature)), np.eye(100)[logits.argmax()])


@pytest.mark.parametrize("temperature", [1e30, 1e300])
def test_an_enormous_temperature_is_uniform(temperature):
    np.testing.assert_allclose(dense(random_logits(100, 0), options(temperature=temperature)), 1 / 100)


@pytest.mark.parametrize("changes", [{}, {"top_k": 90}, {"top_p": 0.999}, {"min_p": 1e-9}, {"temperature": 1e300}])
def test_a_forbidden_token_is_never_drawn(changes):
    logits = random_logits(100, 2)
    logits[::2] = -np.inf
    probabilities = dense(logits, options(**changes))
    assert not probabilities[::2].any()
    assert probabilities.sum() == pytest.approx(1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("changes", [{"temperature": 0.0}, {}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}])
def test_logits_that_are_no_numbers_raise(bad, changes):
    logits = random_logits(100, 0)
    logits[37] = bad
    with pytest.raises(NumericError, match="NaN or infinite"):
        make_sampler(options(**changes))(logits)


@pytest.mark.parametrize("changes", [{"temperature": 0.0}, {}])
def test_logits_that_forbid_every_token_raise(changes):
    with pytest.raises(NumericError, match="every token is forbidden"):
        make_sampler(options(**changes))(np.full(10, -np.inf, np.float32))


@pytest.mark.parametrize("size", [1, 64, 4096, 4097, 10_000, 49_152])
def test_a_draw_by_groups_is_that_of_a_running_sum(size):
    random = np.random.default_rng(size)
    probabilities = random.exponential(size=size) ** 4
    probabilities[1::3] = 0
    probabilities /= probabilities.sum()
    for number in [0.0, *random.random(300), 1 - 2**-53]:
        found = _draw(probabilities, number)
        assert probabilities[found] > 0
        expected = np.searchsorted(np.cumsum(probabilities), number, side="right")
        assert found == min(expected, np.flatnonzero(probabilities)[-1])


def test_a_top_k_beyond_the_vocabulary_keeps_all():
    assert len(distribution(FOUR, options(top_k=10**30))[0]) == 4


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", (-0.1, float("nan"), float("inf"))),
        ("top_k", (-1,)),
        ("top_p", (0.0, -1.0, 1.01, float("nan"))),
        ("min_p", (-0.1, 1.0, float("nan"))),
        ("typical_p", (0.0, 1.1, float("nan"))),
        ("frequency_penalty", (float("nan"), float("inf"))),
        ("presence_penalty", (float("nan"), -float("inf"))),
        ("no_repeat_ngram_size", (-1,)),
        ("max_new_tokens", (0, -1)),
        ("min_new_tokens", (-1,)),
        ("top_logprobs", (-1,)),
        ("repetition_penalty", (0.0, -1.0, float("nan"), float("inf"))),
        ("seed", (-1,)),
    ],
)
def test_an_option_outside_its_range_is_named(name, values):
    for value in values:
        with pytest.raises(OptionError, match=rf"^{name} must be .*, not {value}$"):
            SamplingOptions(**{name: value})


def test_options_that_contradict_each_other_or_are_of_another_kind_are_refused():
    with pytest.raises(OptionError, match="json_schema and regex exclude each other"):
        SamplingOptions(json_schema={}, regex="a")
    with pytest.raises(OptionError, match=r"stop_strings must be a sequence of strings.*give \['end'\]"):
        SamplingOptions(stop_strings="end")
    for bias in (float("nan"), float("inf")):
        with pytest.raises(OptionError, match="logit_bias must be"):
            SamplingOptions(logit_bias={3: bias})
