"""What a stranger may send: each is one clear error at the call, or right behaviour, and none costs minutes."""

from __future__ import annotations

import pytest

from runtime import ChatSession, LanguageModel, SamplingOptions
from runtime.errors import ChatTemplateError, OptionError, PromptError
from tests.runtime.options import endless

TEN_MEGABYTES = 10_000_000


@pytest.fixture
def untokenized(tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    """A model whose tokenizer must not be reached."""

    def reached(*_, **__):
        raise AssertionError("the tokenizer was reached")

    monkeypatch.setattr(tiny_model.tokenizer, "encode", reached)
    return tiny_model


@pytest.mark.parametrize("character", ["a", " ", "\0", "é", "😀", "\ud800"])
def test_ten_megabytes_of_one_character_are_refused_before_they_are_tokenized(character, untokenized):
    text = character * TEN_MEGABYTES
    for call in (untokenized.stream, untokenized.generate, untokenized.score):
        with pytest.raises(PromptError, match=r"10,000,000 characters and the model's context is 192 tokens.*shorten"):
            call(text)
    with pytest.raises((PromptError, ChatTemplateError)):
        ChatSession(untokenized).ask(text)


def test_the_longest_text_that_fits_is_not_refused(tiny_model):
    longest = max(range(320), key=lambda token_id: len(tiny_model.tokenizer.decode([token_id])))
    text = tiny_model.tokenizer.decode([longest]) * 180
    assert len(tiny_model.tokenizer.encode_prompt(text)) < 192
    assert tiny_model.generate(text, endless(max_new_tokens=1)).new_tokens == 1


@pytest.mark.parametrize("text", ["\0", "a\0b", "\0" * 20, "\x7f\x1b[31m", "\ufffe\uffff", "\u202eright to left"])
def test_control_characters_are_characters_like_others(text, tiny_model):
    ids = tiny_model.tokenizer.encode_prompt(text)
    assert tiny_model.tokenizer.decode(ids) == text
    assert tiny_model.generate(text, endless(max_new_tokens=3)).new_tokens == 3


@pytest.mark.parametrize("text", ["\ud800", "half \udc00 a pair"])
def test_half_of_a_surrogate_pair_is_refused_in_a_chat_too(text, tiny_model):
    with pytest.raises(PromptError, match="not valid Unicode"):
        ChatSession(tiny_model).ask(text)
    with pytest.raises(PromptError, match="not valid Unicode"):
        tiny_model.score(text)


@pytest.mark.parametrize("token_id", [-1, 320, 2**40])
def test_stop_token_ids_outside_the_vocabulary_are_refused(token_id, tiny_model):
    with pytest.raises(OptionError, match=r"stop_token_ids must lie in 0\.\.319"):
        tiny_model.stream("the", SamplingOptions(stop_token_ids=[token_id]))


def test_a_stop_string_longer_than_the_output_changes_nothing(tiny_model):
    plain = tiny_model.generate("the mouse", endless(max_new_tokens=20))
    stops = ["x" * TEN_MEGABYTES, plain.text + "!"]
    found = tiny_model.generate("the mouse", endless(max_new_tokens=20, stop_strings=stops))
    assert (found.text, found.finish_reason) == (plain.text, "length")


def test_more_log_probabilities_than_tokens_are_all_of_them(tiny_model):
    result = tiny_model.generate("the", endless(max_new_tokens=1, top_logprobs=10**9))
    assert len(result.top_logprobs[0]) == 320
