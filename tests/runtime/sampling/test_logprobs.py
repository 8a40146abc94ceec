"""Log-probabilities: of tokens as they are drawn, and of a given text."""

from __future__ import annotations

import math

import numpy as np
import pytest

from runtime import LanguageModel, SamplingOptions
from runtime.errors import NumericError, PromptError
from runtime.sampling.logprobs import token_logprobs
from tests.runtime.options import endless
from tests.runtime.softmax import log_softmax


def test_four_logits_have_the_log_probabilities_worked_out_by_hand():
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32)) + 7
    logprob, top = token_logprobs(logits, 2, 3)
    assert logprob == pytest.approx(math.log(0.2), abs=1e-6)
    assert [token_id for token_id, _ in top] == [1, 3, 2]
    assert [told for _, told in top] == pytest.approx([math.log(0.4), math.log(0.3), math.log(0.2)], abs=1e-6)
    assert token_logprobs(logits, 2, 0) == (logprob, ())
    assert len(token_logprobs(logits, 2, 99)[1]) == 4


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_a_log_probability_is_that_of_a_plain_log_softmax(spread):
    logits = np.random.default_rng(1).normal(0, spread, 49_152).astype(np.float32)
    expected = log_softmax(logits)
    for token_id in (0, 7, 49_151, int(logits.argmax())):
        assert token_logprobs(logits, token_id, 0)[0] == pytest.approx(expected[token_id], abs=2e-5)


def test_chunks_carry_log_probabilities_on_request_alone(tiny_model: LanguageModel):
    plain = tiny_model.generate("the", endless(max_new_tokens=5))
    assert plain.logprobs == plain.top_logprobs == []
    chunks = list(tiny_model.stream("the", endless(max_new_tokens=5, top_logprobs=3)))
    assert [chunk.token_id for chunk in chunks] == plain.token_ids
    for chunk in chunks:
        assert chunk.top_logprobs[0] == (chunk.token_id, chunk.logprob)  # greedy draws the likeliest
        logprobs = [logprob for _, logprob in chunk.top_logprobs]
        assert logprobs == sorted(logprobs, reverse=True)
        assert len(logprobs) == 3


def test_the_log_probabilities_of_a_stream_are_those_of_scoring_its_text(stories260k_bundle):
    model = LanguageModel.load(stories260k_bundle, precision="fp32")
    # Neither temperature nor filters nor processors change what the model thinks.
    sampling = SamplingOptions(
        temperature=1.3, top_k=20, repetition_penalty=1.2, seed=5, max_new_tokens=30, top_logprobs=0
    )
    result = model.generate("Once upon a time", sampling)
    prompt_ids = model.tokenizer.encode("Once upon a time")
    cache = model.session.new_cache()
    logits = model.session.forward(prompt_ids + result.token_ids, cache, num_logits_to_keep=0)
    rows = log_softmax(logits[len(prompt_ids) - 1 : -1])
    expected = [row[token_id] for row, token_id in zip(rows, result.token_ids, strict=True)]
    np.testing.assert_allclose(result.logprobs, expected, atol=1e-4)


def test_a_score_is_that_of_transformers(shared_data, stories260k_bundle):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    text = (shared_data / "corpora" / "tinystories-sample.txt").read_text()[:900]
    model = LanguageModel.load(stories260k_bundle, precision="fp32")
    oracle = transformers.AutoModelForCausalLM.from_pretrained(shared_data / "stories260k")
    score = model.score(text)
    assert score.token_ids == model.tokenizer.encode(text)[1:]
    assert len(score.token_ids) > 128  # several pieces
    ids = torch.tensor([[1, *score.token_ids]])
    with torch.no_grad():
        expected = oracle(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0].numpy()
    np.testing.assert_allclose(score.logprobs, expected, atol=1e-3)
    assert score.total == pytest.approx(expected.sum(), rel=1e-5)
    assert score.perplexity == pytest.approx(math.exp(-expected.mean()), rel=1e-5)


def test_a_score_after_a_prompt_is_the_rest_of_the_whole(tiny_model: LanguageModel):
    whole = tiny_model.score("the mouse and the cat")
    prompt, rest = "the mouse", " and the cat"
    after = tiny_model.score(rest, prompt)
    np.testing.assert_allclose(after.logprobs, whole.logprobs[-len(after.logprobs) :], atol=1e-4)
    assert tiny_model.score("").logprobs == []
    assert tiny_model.score("").total == 0
    assert tiny_model.score("").perplexity == 1


def test_a_text_beyond_the_context_cannot_be_scored(tiny_model: LanguageModel):
    with pytest.raises(PromptError, match="more than the model's context of 192"):
        tiny_model.score("x" * 250)


@pytest.mark.parametrize("processors", [[], [lambda ids, logits: np.nan_to_num(logits)]])
def test_nan_is_told_even_where_a_processor_would_hide_it(processors, tiny_bundle, monkeypatch):
    model = LanguageModel.load(tiny_bundle)
    forward = model.session.forward

    def broken(ids, cache, **options):
        logits = forward(ids, cache, **options)
        logits[..., 5] = np.nan
        return logits

    monkeypatch.setattr(model.session, "forward", broken)
    with pytest.raises(NumericError, match="NaN"):
        model.generate("the", endless(), logits_processors=processors)
    with pytest.raises(NumericError, match="NaN"):
        model.score("the cat")
