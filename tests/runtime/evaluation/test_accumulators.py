"""Perplexity and divergence are what their formulas say, however the rows are cut."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.evaluation.divergence import KlAccumulator
from runtime.evaluation.logits import SPAN_ROWS, Logits
from runtime.evaluation.nll import NllAccumulator
from runtime.evaluation.windows import document_windows
from tests.runtime.softmax import log_softmax

THREE = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32))


def test_perplexity_of_three_tokens_is_worked_out_by_hand():
    prediction = NllAccumulator()
    prediction.add(Logits(THREE), np.array([1, 2]))
    assert prediction.mean_nats == pytest.approx(-(np.log(0.25) + np.log(0.8)) / 2)
    assert prediction.perplexity == pytest.approx(1 / np.sqrt(0.25 * 0.8))


def test_divergence_of_three_tokens_is_worked_out_by_hand():
    divergence = KlAccumulator()
    other = np.log(np.array([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]], np.float32))
    divergence.add(Logits(THREE), Logits(other))
    assert divergence.kl == pytest.approx((0.5 * np.log(2) - 0.25 * np.log(2)) / 2)
    assert divergence.top1_agreement == 0.5
    assert divergence.max_absolute == pytest.approx(np.log(2), rel=1e-6)
    assert divergence.mean_absolute == pytest.approx(2 * np.log(2) / 6, rel=1e-6)
    assert divergence.largest_logit == pytest.approx(-np.log(0.1), rel=1e-6)


def test_a_model_does_not_diverge_from_itself():
    logits = np.random.default_rng(0).normal(0, 9, (3 * SPAN_ROWS + 5, 40)).astype(np.float32)
    divergence = KlAccumulator()
    divergence.add(Logits(logits), Logits(logits))
    assert (divergence.kl, divergence.max_absolute, divergence.top1_agreement) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("rows", [1, SPAN_ROWS, SPAN_ROWS + 1, 3 * SPAN_ROWS])
def test_rows_at_once_and_one_by_one_give_the_same_numbers(rows):
    random = np.random.default_rng(rows)
    logits, targets = random.normal(0, 5, (rows, 20)).astype(np.float32), random.integers(0, 20, rows)
    whole, single = NllAccumulator(), NllAccumulator()
    whole.add(Logits(logits), targets)
    for row in range(rows):
        single.add(Logits(logits[row : row + 1]), targets[row : row + 1])
    assert whole.tokens == single.tokens == rows
    assert whole.nats == pytest.approx(single.nats)


def test_logits_shifted_by_a_constant_predict_the_same():
    for shift in (0, 500, -500):
        shifted = Logits(THREE + np.float32(shift))
        found = np.stack([shifted.nats(np.full(2, token_id)) for token_id in range(3)], axis=1)
        np.testing.assert_allclose(-found, log_softmax(THREE), atol=1e-4)


def test_uniform_logits_have_the_vocabulary_as_perplexity():
    prediction = NllAccumulator()
    prediction.add(Logits(np.zeros((7, 49), np.float32)), np.arange(7))
    assert prediction.perplexity == pytest.approx(49)


@pytest.mark.parametrize("size", [2, 3, 10, 99, 100, 101])
def test_each_token_but_the_first_is_predicted_once(size):
    token_ids = list(range(100))
    pieces = list(document_windows(token_ids, size))
    assert all(len(piece) <= size for piece in pieces)
    assert [token_id for piece in pieces for token_id in piece[1:]] == token_ids[1:]


def test_a_text_of_one_token_has_nothing_to_predict():
    assert list(document_windows([5], 4)) == []


def two_models(rows: int, vocab_size: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    logits = random.normal(0, 5, (rows, vocab_size)).astype(np.float32)
    return logits, (logits + random.normal(0, noise, logits.shape)).astype(np.float32)


def plain_figures(reference: np.ndarray, candidate: np.ndarray) -> dict[str, float]:
    """What the accumulators compute, by the definitions, in float64 over whole rows."""
    first, second = (rows.astype(np.float64) for rows in (reference, candidate))
    p, q = log_softmax(first), log_softmax(second)
    top = [np.argsort(rows, axis=-1)[:, -5:] for rows in (first, second)]
    gaps = np.abs(first - second)
    return {
        "kl": (np.exp(p) * (p - q)).sum(-1).mean(),
        "reverse_kl": (np.exp(q) * (q - p)).sum(-1).mean(),
        "top1_agreement": (first.argmax(-1) == second.argmax(-1)).mean(),
        "top5_agreement": np.mean([len({*ours} & {*theirs}) / 5 for ours, theirs in zip(*top, strict=True)]),
        "mean_absolute": gaps.mean(),
        "max_absolute": gaps.max(),
        "largest_logit": np.abs(first).max(),
    }


# At 1e-6 the KL is 1e-12, of terms of 1e-6 that cancel. At 40 some tokens are beyond what exp holds in float32.
@pytest.mark.parametrize("noise", [1e-6, 1e-3, 0.1, 3, 40])
@pytest.mark.parametrize("vocab_size", [300, 3000, 49_157])
def test_figures_are_those_of_float64_over_whole_rows(noise, vocab_size):
    first, second = two_models(SPAN_ROWS + 3, vocab_size, noise)
    divergence = KlAccumulator()
    divergence.add(Logits(first), Logits(second))
    for name, expected in plain_figures(first, second).items():
        assert getattr(divergence, name) == pytest.approx(expected, rel=1e-4), name
    for share in (0.5, 0.99):
        assert divergence.quantile(share) == pytest.approx(np.quantile(np.abs(first - second), share), rel=0.02)
    assert divergence.token_kl.shape == (SPAN_ROWS + 3,)
    assert divergence.token_kl.mean() == pytest.approx(divergence.kl)


def test_a_token_that_the_reference_rules_out_counts_in_full():
    reference = np.array([[0.0, -200.0, -1.0]], np.float32)
    candidate = np.array([[-200.0, 0.0, -1.0]], np.float32)
    divergence = KlAccumulator()
    divergence.add(Logits(reference), Logits(candidate))
    expected = plain_figures(reference, candidate)
    assert divergence.kl == pytest.approx(expected["kl"], rel=1e-5)
    assert divergence.reverse_kl == pytest.approx(expected["reverse_kl"], rel=1e-5)


def test_logits_that_are_no_numbers_give_a_kl_that_is_none():
    rows, candidate = two_models(2, 300, 0.1)
    candidate[1, 7] = np.nan
    divergence = KlAccumulator()
    divergence.add(Logits(rows), Logits(candidate))
    assert np.isnan(divergence.token_kl[1])
    assert all(np.isnan([divergence.kl, divergence.reverse_kl, divergence.max_absolute]))


@pytest.mark.parametrize("vocab_size", [3, 100, 321, 640, 49_157])
def test_the_likeliest_tokens_are_those_of_a_sort(vocab_size):
    rows = np.random.default_rng(vocab_size).permuted(np.tile(np.arange(vocab_size, dtype=np.float32), (40, 1)), axis=1)
    found = Logits(rows)
    np.testing.assert_array_equal(np.sort(found.top), np.sort(np.argsort(rows, axis=-1)[:, -5:]))
    np.testing.assert_array_equal(found.likeliest, rows.argmax(-1))


def test_parts_that_are_merged_count_like_the_whole():
    first, second = two_models(30, 3000, 0.3)
    whole, merged = KlAccumulator(), KlAccumulator()
    whole.add(Logits(first), Logits(second))
    for rows in (slice(0, 11), slice(11, 30)):
        part = KlAccumulator()
        part.add(Logits(first[rows], threads=1), Logits(second[rows], threads=1))
        merged.merge(part)
    np.testing.assert_array_equal(merged.token_kl, whole.token_kl)
    for name in ("kl", "reverse_kl", "top1_agreement", "top5_agreement", "mean_absolute", "max_absolute"):
        assert getattr(merged, name) == pytest.approx(getattr(whole, name))


def test_a_vocabulary_smaller_than_five_is_compared_whole():
    first, second = two_models(9, 3, 1.0)
    divergence = KlAccumulator()
    divergence.add(Logits(first), Logits(second))
    assert divergence.top5_agreement == 1


def test_nothing_counted_is_zero():
    assert (NllAccumulator().nats, NllAccumulator().tokens, KlAccumulator().kl) == (0.0, 0, 0.0)
    assert Logits(np.zeros((0, 7), np.float32)).normalizers.shape == (0,)
