"""Processors change logits as transformers' do."""

from __future__ import annotations

import numpy as np
import pytest

from runtime import LanguageModel, SamplingOptions
from runtime.errors import OptionError
from runtime.logits_processors import repetition_penalty


def test_four_logits_are_penalized_as_worked_out_by_hand():
    logits = np.array([2.0, -2.0, 1.0, 0.0], np.float32)
    np.testing.assert_allclose(repetition_penalty(2.0)([1, 0, 0, 3], logits), [1.0, -4.0, 1.0, 0.0])
    np.testing.assert_array_equal(logits, [2.0, -2.0, 1.0, 0.0])  # what went in is left alone


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.1, 1.9, 30.0])
@pytest.mark.parametrize("vocab_size", [50, 5000])
def test_repetition_penalty_is_that_of_transformers(penalty, vocab_size):
    torch = pytest.importorskip("torch")
    processors = pytest.importorskip("transformers.generation.logits_process")
    oracle = processors.RepetitionPenaltyLogitsProcessor(penalty)
    for seed in range(10):
        random = np.random.default_rng(seed)
        logits = random.normal(0, 5, vocab_size).astype(np.float32)
        ids = random.integers(0, vocab_size, 200)
        expected = oracle(torch.from_numpy(ids)[None], torch.from_numpy(logits.copy())[None])[0].numpy()
        np.testing.assert_allclose(repetition_penalty(penalty)(ids.tolist(), logits), expected, rtol=1e-6)


@pytest.mark.parametrize("penalty", [1e300, 1e39])
def test_an_enormous_penalty_leaves_numbers(penalty):
    found = repetition_penalty(penalty)([0, 1, 2], np.array([3.0, -3.0, 0.0, 1.0], np.float32))
    assert found.tolist() == pytest.approx([0.0, -np.inf, 0.0, 1.0])


@pytest.mark.parametrize("penalty", [0.0, -1.0, float("nan"), float("inf")])
def test_a_penalty_outside_its_range_is_refused(penalty):
    with pytest.raises(OptionError, match="repetition_penalty"):
        repetition_penalty(penalty)


def test_a_strong_penalty_ends_repetition(tiny_model: LanguageModel):
    def generated(penalty):
        sampling = SamplingOptions(temperature=0, repetition_penalty=penalty)
        return tiny_model.generate("the cat", sampling=sampling, max_new_tokens=40, stop_token_ids=()).token_ids

    assert len(set(generated(1000.0))) == 40
    assert len(set(generated(1.0))) < 40
