"""N tokens cost one prefill and N - 1 decodes, and nothing is computed that nobody asked for."""

from __future__ import annotations

import pytest

from runtime import Bundle, LanguageModel, SamplingOptions, TextDelta
from runtime.engine.sequence import DEFAULT_MAX_NEW_TOKENS
from runtime.errors import NumericError, OptionError, PromptError
from runtime.generation.generate import generate_step
from tests.runtime.options import endless, greedy, token_ids

CONTEXT = 192


@pytest.mark.parametrize("new_tokens", [1, 2, 17])
def test_n_tokens_cost_one_prefill_and_n_minus_1_decodes(new_tokens, tiny_model, calls):
    result = tiny_model.generate([5, 6, 7], endless(max_new_tokens=new_tokens))
    assert result.new_tokens == new_tokens
    assert result.finish_reason == "length"
    assert calls == [3] + [1] * (new_tokens - 1)


@pytest.mark.parametrize("position", [0, 1, 5])
def test_nothing_is_computed_after_a_stop_token(position, tiny_model, calls):
    ids = tiny_model.generate([5, 6], endless(max_new_tokens=20)).token_ids
    stop = ids[position]
    first = ids.index(stop)
    calls.clear()
    result = tiny_model.generate([5, 6], greedy(max_new_tokens=20, stop_token_ids=[stop]))
    assert result.token_ids == ids[:first]  # without the one that stopped it
    assert result.finish_reason == "stop"
    assert calls == [2] + [1] * first


def test_nothing_is_computed_after_a_stop_string(tiny_model, calls):
    text = tiny_model.generate("the mouse", endless(max_new_tokens=40)).text
    calls.clear()
    result = tiny_model.generate("the mouse", endless(max_new_tokens=40, stop_strings=[text[4:6]]))
    assert result.finish_reason == "stop"
    assert len(calls) == result.new_tokens < 40


def test_nothing_is_computed_before_the_first_chunk_is_asked_for_or_after_the_stream_is_closed(tiny_model, calls):
    stream = tiny_model.stream("the mouse", endless(max_new_tokens=40))
    assert calls == []
    next(stream)
    next(stream)
    assert len(calls) == 2
    stream.close()
    assert list(stream) == []
    assert len(calls) == 2


def test_only_the_last_chunk_has_a_finish_reason(tiny_model):
    for stop_ids in ((), (tiny_model.generate("a", greedy(max_new_tokens=9)).token_ids[4],)):
        chunks = list(tiny_model.stream("a", greedy(max_new_tokens=9, stop_token_ids=stop_ids)))
        assert [chunk.finish_reason is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


@pytest.mark.parametrize("prompt", ["", "the cat", "a naïve 😀"])
def test_the_pieces_of_a_stream_join_to_the_text_of_its_ids(prompt, tiny_model):
    prompt_ids = tiny_model.tokenizer.encode(prompt)
    for seed in range(10):
        sampling = SamplingOptions(temperature=1.5, seed=seed, max_new_tokens=50, stop_token_ids=())
        result = tiny_model.generate(prompt, sampling)
        assert prompt + result.text == tiny_model.tokenizer.decode(prompt_ids + result.token_ids)


def test_a_word_that_continues_the_prompt_keeps_its_space(stories260k_bundle):
    model = LanguageModel.load(stories260k_bundle, precision="fp32")
    for prompt in ("Once upon a", "Lily saw", "Tom had a red"):
        result = model.generate(prompt, greedy(max_new_tokens=8))
        ids = model.tokenizer.encode(prompt) + result.token_ids
        assert prompt + result.text == model.tokenizer.decode(ids)
        assert result.text.startswith(" ")


def test_what_was_held_back_for_a_stop_string_comes_at_the_end(tiny_model):
    whole = tiny_model.generate("the mouse", endless(max_new_tokens=20))
    never = whole.text[-3:] + " and what never comes"
    held = tiny_model.generate("the mouse", endless(max_new_tokens=20, stop_strings=[never]))
    assert held.text == whole.text
    assert held.finish_reason == "length"
    ending = greedy(max_new_tokens=20, stop_token_ids=whole.token_ids[-1:], stop_strings=["?!"])
    stop = tiny_model.generate("the mouse", ending)
    assert stop.text == tiny_model.tokenizer.decode(stop.token_ids)


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(tiny_model):
    def tokens(seed):
        sampling = SamplingOptions(temperature=1.0, seed=seed, max_new_tokens=30, stop_token_ids=())
        return tiny_model.generate("the", sampling).token_ids

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


def test_a_given_cache_continues_the_same_sequence(tiny_model):
    session, ids = tiny_model.session, list(range(20, 40))
    cache = session.new_cache()
    session.forward(ids[:12], cache)
    continued = token_ids(generate_step(session, ids[12:], stop_token_ids=(), max_new_tokens=15, cache=cache))
    assert continued == token_ids(generate_step(session, ids, stop_token_ids=(), max_new_tokens=15))
    assert cache.length == 20 + 14


def test_processors_see_the_ids_so_far_and_run_in_order(tiny_model):
    seen = []

    def record(ids, logits):
        seen.append(list(ids))
        return logits + 1

    def only_nine(ids, logits):
        assert logits.mean() != 0
        logits = logits.copy()
        logits[:] = float("-inf")
        logits[9] = 0
        return logits

    steps = generate_step(
        tiny_model.session, [4, 5], stop_token_ids=(), max_new_tokens=3, logits_processors=[record, only_nine]
    )
    assert token_ids(steps) == [9, 9, 9]
    assert seen == [[4, 5], [4, 5, 9], [4, 5, 9, 9]]


def test_without_a_limit_the_context_or_256_is_the_limit(tiny_model, stories260k_bundle):
    result = tiny_model.generate(list(range(10, 30)), endless())
    assert result.new_tokens == CONTEXT - 20
    large = LanguageModel.load(stories260k_bundle, precision="fp32")
    assert large.generate("", endless()).new_tokens == DEFAULT_MAX_NEW_TOKENS == 256


@pytest.mark.parametrize("prompt_ids", [[], [-1], [320], [5, 2**31], [2**70], [-(2**70)], [1.5], ["a"], [None]])
def test_token_ids_that_are_none_are_refused_at_the_call(prompt_ids, tiny_model):
    for call in (tiny_model.stream, tiny_model.generate, lambda ids: generate_step(tiny_model.session, ids)):
        with pytest.raises(PromptError, match="no tokens" if not prompt_ids else r"integers in 0\.\.319"):
            call(prompt_ids)


@pytest.mark.parametrize("size", [CONTEXT, CONTEXT + 1, 10 * CONTEXT])
def test_a_prompt_without_room_for_a_new_token_is_refused_with_both_numbers(size, tiny_model):
    with pytest.raises(PromptError, match=rf"prompt has {size} tokens .* context is {CONTEXT}"):
        tiny_model.stream([7] * size)


def test_a_prompt_with_room_for_one_token_gets_one(tiny_model):
    assert tiny_model.generate([7] * (CONTEXT - 1), endless()).new_tokens == 1


@pytest.mark.parametrize(
    ("max_new_tokens", "words"),
    [(0, "at least 1, not 0"), (-3, "at least 1, not -3"), (189, "ask for at most 188"), (10**30, "at most 188")],
)
def test_max_new_tokens_beyond_its_range_is_refused_at_the_call(max_new_tokens, words, tiny_model):
    with pytest.raises(OptionError, match=rf"max_new_tokens.*{words}"):
        tiny_model.stream([4, 5, 6, 7], SamplingOptions(max_new_tokens=max_new_tokens))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_that_gives_nan_says_so(temperature, tiny_bundle, monkeypatch):
    model = LanguageModel.load(tiny_bundle)
    forward = model.session.forward
    monkeypatch.setattr(model.session, "forward", lambda ids, cache: forward(ids, cache) * float("nan"))
    with pytest.raises(NumericError, match="NaN"):
        model.generate("the", SamplingOptions(temperature=temperature))


def test_an_end_of_text_id_of_the_bundle_stops(tiny_bundle, tiny_model, monkeypatch):
    assert Bundle.open(tiny_bundle).eos_token_ids == {0, 2}
    monkeypatch.setattr("runtime.generation.text_request.make_sampler", lambda options: lambda logits: 2)
    assert list(tiny_model.stream("the")) == [TextDelta("", None, "stop")]
