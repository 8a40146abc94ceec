"""Perplexity and divergence are what their formulas say, however the rows are cut."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.evaluation.divergence import KlAccumulator
from runtime.evaluation.logits import ROWS_AT_ONCE, Logits
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
    logits = np.random.default_rng(0).normal(0, 9, (3 * ROWS_AT_ONCE + 5, 40)).astype(np.float32)
    divergence = KlAccumulator()
    divergence.add(Logits(logits), Logits(logits))
    assert (divergence.kl, divergence.max_absolute, divergence.top1_agreement) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("rows", [1, ROWS_AT_ONCE, ROWS_AT_ONCE + 1, 3 * ROWS_AT_ONCE])
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
        found = Logits(THREE + np.float32(shift)).log_probabilities(slice(None))
        np.testing.assert_allclose(found, log_softmax(THREE), atol=1e-4)


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


# At 1e-6 the KL is 1e-12, of terms of 1e-6 that cancel: two digits of it are shown, and hold.
@pytest.mark.parametrize(("noise", "tolerance"), [(1e-6, 1e-3), (1e-2, 1e-5), (3, 1e-5)])
def test_figures_are_those_of_float64_over_whole_rows(noise, tolerance):
    first, second = two_models(3 * ROWS_AT_ONCE + 1, 3000, noise)
    divergence = KlAccumulator()
    divergence.add(Logits(first), Logits(second))
    exact = [rows.astype(np.float64) for rows in (first, second)]
    p, q = (rows - np.log(np.exp(rows).sum(-1, keepdims=True)) for rows in exact)
    assert divergence.kl == pytest.approx((np.exp(p) * (p - q)).sum(-1).mean(), rel=tolerance)
    assert divergence.reverse_kl == pytest.approx((np.exp(q) * (q - p)).sum(-1).mean(), rel=tolerance)
    top = [np.argsort(rows, axis=-1)[:, -5:] for rows in (first, second)]
    shared = [len({*ours} & {*theirs}) for ours, theirs in zip(*top, strict=True)]
    assert divergence.top5_agreement == pytest.approx(np.mean(shared) / 5)
    assert divergence.mean_absolute == pytest.approx(np.abs(exact[0] - exact[1]).mean(), rel=1e-3)


def test_a_vocabulary_smaller_than_five_is_compared_whole():
    first, second = two_models(9, 3, 1.0)
    divergence = KlAccumulator()
    divergence.add(Logits(first), Logits(second))
    assert divergence.top5_agreement == 1


def test_nothing_counted_is_zero():
    assert (NllAccumulator().nats, NllAccumulator().tokens, KlAccumulator().kl) == (0.0, 0, 0.0)
    assert Logits(np.zeros((0, 7), np.float32)).normalizers.shape == (0,)
