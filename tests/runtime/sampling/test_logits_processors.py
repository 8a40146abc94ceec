"""Processors change logits as transformers' do, each alone and all in their order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from runtime import LanguageModel, SamplingOptions
from runtime.errors import OptionError
from runtime.sampling.logits_processors import (
    logit_bias,
    make_logits_processors,
    min_new_tokens,
    no_repeat_ngram,
    occurrence_penalty,
    repetition_penalty,
    suppress_tokens,
)
from runtime.sampling.sampler import distribution, make_sampler
from tests.runtime.options import endless

FOUR = np.array([2.0, -2.0, 1.0, 0.0], np.float32)
FORBIDDEN = -np.inf


@pytest.mark.parametrize(
    ("process", "ids", "expected"),
    [
        (repetition_penalty(2.0), [1, 0, 0, 3], [1.0, -4.0, 1.0, 0.0]),
        (logit_bias({0: 1.5, 2: FORBIDDEN}, 4), [], [3.5, -2.0, FORBIDDEN, 0.0]),
        # Of the prompt [0, 1] nothing counts; 2 was generated twice and 3 once.
        (occurrence_penalty(0.5, 0.0, 2), [0, 1, 2, 3, 2], [2.0, -2.0, 0.0, -0.5]),
        (occurrence_penalty(0.0, 0.25, 2), [0, 1, 2, 3, 2], [2.0, -2.0, 0.75, -0.25]),
        (occurrence_penalty(0.5, 0.25, 2), [0, 1, 2, 3, 2], [2.0, -2.0, -0.25, -0.75]),
        (occurrence_penalty(-1.0, 0.0, 0), [0, 1], [3.0, -1.0, 1.0, 0.0]),
        (no_repeat_ngram(1), [0, 2], [FORBIDDEN, -2.0, FORBIDDEN, 0.0]),
        (no_repeat_ngram(2), [0, 1, 2, 0], [2.0, FORBIDDEN, 1.0, 0.0]),  # 0 was followed by 1
        (no_repeat_ngram(3), [0, 1, 2, 0, 1, 3, 0, 1], [2.0, -2.0, FORBIDDEN, FORBIDDEN]),
        (no_repeat_ngram(3), [0, 1], [2.0, -2.0, 1.0, 0.0]),
        (min_new_tokens(2, 1, [0, 3]), [1, 1], [FORBIDDEN, -2.0, 1.0, FORBIDDEN]),
        (min_new_tokens(2, 1, [0, 3]), [1, 1, 1], [2.0, -2.0, 1.0, 0.0]),
        (suppress_tokens(range(2, 4)), [], [2.0, -2.0, FORBIDDEN, FORBIDDEN]),
        (suppress_tokens([0, 3]), [], [FORBIDDEN, -2.0, 1.0, FORBIDDEN]),
        (suppress_tokens([1]), [], [2.0, FORBIDDEN, 1.0, 0.0]),
    ],
)
def test_four_logits_become_what_was_worked_out_by_hand(process, ids, expected):
    logits = FOUR.copy()
    np.testing.assert_allclose(process(ids, logits), expected)
    np.testing.assert_array_equal(logits, FOUR)  # what went in is left alone


def random_case(vocab_size, seed):
    random = np.random.default_rng([vocab_size, seed])
    logits = random.normal(0, 5, vocab_size).astype(np.float32)
    # Few different ids, so that runs of them repeat.
    return logits, random.choice(vocab_size, 6, replace=False)[random.integers(0, 6, 120)].tolist()


def oracle(options, prompt_tokens, stop_ids):
    """transformers' processors and warpers for the same options, in the order of its own `generate`."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.GenerationConfig(
        do_sample=True,
        sequence_bias={(token_id,): bias for token_id, bias in options.logit_bias.items()} or None,
        repetition_penalty=options.repetition_penalty,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        min_new_tokens=options.min_new_tokens or None,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p or None,
        typical_p=options.typical_p,
    )
    config._eos_token_tensor = torch.tensor(sorted(stop_ids))
    model = transformers.generation.GenerationMixin()
    model.config = transformers.PreTrainedConfig()
    processors = model._get_logits_processor(config, input_ids_seq_length=prompt_tokens, device="cpu")

    def scores(ids, logits):
        return processors(torch.tensor([ids]), torch.from_numpy(logits.copy())[None]).softmax(-1)[0].numpy()

    return scores


ALONE = [
    {"logit_bias": {3: 2.5, 40: -1.0}},
    {"repetition_penalty": 0.5},
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3},
    {"min_new_tokens": 100},
    {"min_new_tokens": 200},
    {"typical_p": 0.2},
    {"typical_p": 0.9},
]
TOGETHER = [
    {"logit_bias": {3: 2.5, 40: -1.0}, "repetition_penalty": penalty, "no_repeat_ngram_size": 2, "min_new_tokens": 100}
    | {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "typical_p": typical_p}
    for penalty, temperature, top_k, top_p, min_p, typical_p in itertools.product(
        (0.8, 1.5), (0.6, 1.4), (0, 30), (0.9, 1.0), (0.0, 0.02), (0.6, 1.0)
    )
]
OFF = {"temperature": 1.0, "top_p": 1.0}


@pytest.mark.filterwarnings("ignore")  # transformers' own about options that go together
@pytest.mark.parametrize("changes", ALONE + TOGETHER, ids=str)
def test_every_processor_and_their_order_are_those_of_transformers(changes):
    options, prompt_tokens, stop_ids, vocab_size = SamplingOptions(**(OFF | changes)), 30, {7, 8}, 5000
    expected_of = oracle(options, prompt_tokens, stop_ids)
    processors = make_logits_processors(
        options, prompt_tokens=prompt_tokens, vocab_size=vocab_size, stop_token_ids=stop_ids
    )
    for seed in range(4):
        logits, ids = random_case(vocab_size, seed)
        expected, scores = expected_of(ids, logits), logits
        for process in processors:
            scores = process(ids, scores)
        kept, probabilities = distribution(scores, options)
        found = np.zeros(vocab_size)
        found[kept] = probabilities
        np.testing.assert_array_equal(found > 1e-30, expected > 1e-30)
        np.testing.assert_allclose(found, expected, rtol=5e-5, atol=1e-7)


def test_penalties_of_occurrence_come_after_that_of_repetition_as_in_vllm():
    options = SamplingOptions(repetition_penalty=2.0, frequency_penalty=1.0)
    first, second = make_logits_processors(options, prompt_tokens=0, vocab_size=4, stop_token_ids=())
    np.testing.assert_allclose(second([0], first([0], FOUR)), [0.0, -2.0, 1.0, 0.0])  # 2 / 2 - 1


def test_the_defaults_need_no_processor():
    assert make_logits_processors(SamplingOptions(), prompt_tokens=3, vocab_size=9, stop_token_ids={1}) == []


@pytest.mark.parametrize("unused", [range(4, 9), [1, 4, 6], range(8, 9)], ids=str)
@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 9.0, "top_p": 1.0}, {}, {"top_k": 8}], ids=str)
def test_an_id_without_a_token_is_never_drawn(options, unused):
    options = SamplingOptions(seed=1, **options)
    (process,) = make_logits_processors(
        options, prompt_tokens=0, vocab_size=9, stop_token_ids=(), unused_token_ids=unused
    )
    sample = make_sampler(options)
    logits = np.zeros(9, np.float32)
    logits[list(unused)] = 5
    drawn = {sample(process([], logits)) for _ in range(300)}
    assert drawn.isdisjoint(unused)
    assert drawn == set(range(9)) - set(unused) or options.temperature == 0


def test_a_stop_id_without_a_token_may_be_drawn():
    (process,) = make_logits_processors(
        SamplingOptions(), prompt_tokens=0, vocab_size=4, stop_token_ids={3}, unused_token_ids=range(2, 4)
    )
    assert process([], FOUR).tolist() == [2.0, -2.0, FORBIDDEN, 0.0]


@pytest.mark.parametrize("penalty", [1e300, 1e39])
def test_an_enormous_penalty_leaves_numbers(penalty):
    found = repetition_penalty(penalty)([0, 1, 2], np.array([3.0, -3.0, 0.0, 1.0], np.float32))
    assert found.tolist() == pytest.approx([0.0, -np.inf, 0.0, 1.0])


@pytest.mark.parametrize("penalty", [0.0, -1.0, float("nan"), float("inf")])
def test_a_penalty_outside_its_range_is_refused(penalty):
    with pytest.raises(OptionError, match="repetition_penalty"):
        repetition_penalty(penalty)


@pytest.mark.parametrize("token_id", [-1, 320, 10**30])
def test_a_bias_on_no_token_is_refused(token_id, tiny_model: LanguageModel):
    with pytest.raises(OptionError, match=rf"logit_bias has a token id {token_id}; ids lie in 0\.\.319"):
        tiny_model.stream("the", SamplingOptions(logit_bias={token_id: 1.0}))


def generated(model, **options):
    return model.generate("the cat", endless(max_new_tokens=40, **options)).token_ids


def test_a_strong_penalty_ends_repetition(tiny_model: LanguageModel):
    assert len(set(generated(tiny_model, repetition_penalty=1000.0))) == 40
    assert len(set(generated(tiny_model, frequency_penalty=1000.0))) == 40
    assert len(set(generated(tiny_model, presence_penalty=1000.0))) == 40
    assert len(set(generated(tiny_model, no_repeat_ngram_size=1))) == 40
    assert len(set(generated(tiny_model))) < 40


def test_a_bias_forbids_and_forces(tiny_model: LanguageModel):
    first = generated(tiny_model)[0]
    assert first not in generated(tiny_model, logit_bias={first: -np.inf})
    assert generated(tiny_model, logit_bias={7: 1000.0}) == [7] * 40


def test_min_new_tokens_holds_the_end_back(tiny_model: LanguageModel):
    ending = {"stop_token_ids": list(range(0, 320, 2)), "temperature": 1.5, "seed": 1}
    plain = tiny_model.generate("the", SamplingOptions(**ending, max_new_tokens=60))
    held = tiny_model.generate("the", SamplingOptions(**ending, max_new_tokens=60, min_new_tokens=20))
    assert plain.new_tokens < 20 <= held.new_tokens
    with pytest.raises(OptionError, match="min_new_tokens 61 is more than the 60"):
        tiny_model.stream("the", SamplingOptions(max_new_tokens=60, min_new_tokens=61))


def test_a_callers_own_processors_run_after_those_of_the_options(tiny_model: LanguageModel):
    seen = []

    def only_nine(ids, logits):
        seen.append((list(ids), logits[5]))
        return np.where(np.arange(320) == 9, np.float32(0), np.float32(-np.inf))

    options = endless(logit_bias={5: -np.inf}, max_new_tokens=2)
    assert tiny_model.generate([4, 6], options, logits_processors=[only_nine]).token_ids == [9, 9]
    assert seen == [([4, 6], -np.inf), ([4, 6, 9], -np.inf)]
