"""Perplexity and divergence are what their formulas say, however the rows are cut."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.evaluation.evaluate import ROWS_AT_ONCE, Divergence, Prediction, log_softmax, windows

THREE = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32))


def test_perplexity_of_three_tokens_is_worked_out_by_hand():
    prediction = Prediction()
    prediction.add(THREE, np.array([1, 2]))
    assert prediction.mean_nats == pytest.approx(-(np.log(0.25) + np.log(0.8)) / 2)
    assert prediction.perplexity == pytest.approx(1 / np.sqrt(0.25 * 0.8))


def test_divergence_of_three_tokens_is_worked_out_by_hand():
    divergence = Divergence()
    other = np.log(np.array([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]], np.float32))
    divergence.add(THREE, other)
    assert divergence.kl == pytest.approx((0.5 * np.log(2) - 0.25 * np.log(2)) / 2)
    assert divergence.top1_agreement == 0.5
    assert divergence.max_absolute == pytest.approx(np.log(2), rel=1e-6)
    assert divergence.mean_absolute == pytest.approx(2 * np.log(2) / 6, rel=1e-6)
    assert divergence.largest_logit == pytest.approx(-np.log(0.1), rel=1e-6)


def test_a_model_does_not_diverge_from_itself():
    logits = np.random.default_rng(0).normal(0, 9, (3 * ROWS_AT_ONCE + 5, 40)).astype(np.float32)
    divergence = Divergence()
    divergence.add(logits, logits)
    assert (divergence.kl, divergence.max_absolute, divergence.top1_agreement) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("rows", [1, ROWS_AT_ONCE, ROWS_AT_ONCE + 1, 3 * ROWS_AT_ONCE])
def test_rows_at_once_and_one_by_one_give_the_same_numbers(rows):
    random = np.random.default_rng(rows)
    logits, targets = random.normal(0, 5, (rows, 20)).astype(np.float32), random.integers(0, 20, rows)
    whole, single = Prediction(), Prediction()
    whole.add(logits, targets)
    for row in range(rows):
        single.add(logits[row : row + 1], targets[row : row + 1])
    assert whole.tokens == single.tokens == rows
    assert whole.nats == pytest.approx(single.nats)


def test_logits_shifted_by_a_constant_predict_the_same():
    np.testing.assert_allclose(log_softmax(THREE + np.float32(500)), log_softmax(THREE), atol=1e-4)


def test_uniform_logits_have_the_vocabulary_as_perplexity():
    prediction = Prediction()
    prediction.add(np.zeros((7, 49), np.float32), np.arange(7))
    assert prediction.perplexity == pytest.approx(49)


@pytest.mark.parametrize("size", [2, 3, 10, 99, 100, 101])
def test_each_token_but_the_first_is_predicted_once(size):
    token_ids = list(range(100))
    pieces = list(windows(token_ids, size))
    assert all(len(piece) <= size for piece in pieces)
    assert [token_id for piece in pieces for token_id in piece[1:]] == token_ids[1:]


def test_a_text_of_one_token_has_nothing_to_predict():
    assert list(windows([5], 4)) == []
