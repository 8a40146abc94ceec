"""A line's options: every one of SamplingOptions, checked by name, type and range."""

from __future__ import annotations

from dataclasses import fields

import pytest

from runtime import SamplingOptions
from runtime.batch.line_options import line_options
from runtime.errors import OptionError

VALUES = {
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.5,
    "min_p": 0.25,
    "typical_p": 0.75,
    "repetition_penalty": 1.5,
    "frequency_penalty": -0.5,
    "presence_penalty": 0.5,
    "no_repeat_ngram_size": 3,
    "logit_bias": {"3": -1.5, "4": 2},
    "max_new_tokens": 9,
    "min_new_tokens": 2,
    "stop_strings": ["a", "b"],
    "stop_token_ids": [5],
    "json_schema": {"type": "object"},
    "regex": "a+",
    "top_logprobs": 1,
    "seed": 7,
}


def options(**record):
    return line_options(record, SamplingOptions(), 0)


@pytest.mark.parametrize("option", fields(SamplingOptions), ids=lambda option: option.name)
def test_every_option_can_be_a_lines_own(option):
    found = options(**{option.name: VALUES[option.name]})
    expected = {"logit_bias": {3: -1.5, 4: 2.0}, "stop_strings": ("a", "b"), "stop_token_ids": (5,)}
    assert found == SamplingOptions(**{option.name: expected.get(option.name, VALUES[option.name])})
    assert found != SamplingOptions()


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"stop": "."}, {"stop_strings": (".",)}),
        ({"stop": ["a", "b"]}, {"stop_strings": ("a", "b")}),
        ({"max_tokens": 4}, {"max_new_tokens": 4}),
        ({"max_completion_tokens": 4.0}, {"max_new_tokens": 4}),
        ({"temperature": None, "stop": None}, {}),
        ({"json_schema": True}, {"json_schema": True}),
        ({"logit_bias": {"3": float("-inf")}}, {"logit_bias": {3: float("-inf")}}),
    ],
)
def test_openais_spellings_and_null_are_understood(record, expected):
    assert options(**record) == SamplingOptions(**expected)


@pytest.mark.parametrize(
    "key", "id ids model user name text topic source category url step title lang prompt_id label tag".split()
)
def test_a_key_that_is_no_option_is_left_alone(key):
    assert options(**{key: "x"}) == SamplingOptions()


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("temprature", "temperature"),
        ("Temperature", "temperature"),
        ("max_token", "max_tokens"),
        ("max-new-tokens", "max_new_tokens"),
        ("topP", "top_p"),
        ("repeat_penalty", "repetition_penalty"),
        ("min_tokens", "min_new_tokens"),
        ("stops", "stop"),
        ("stop_string", "stop_strings"),
        ("jsonschema", "json_schema"),
    ],
)
def test_a_misspelt_option_names_the_right_one(key, meant):
    with pytest.raises(OptionError, match=rf'"{key}" is not an option: write {meant},'):
        options(**{key: 1})


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"temperature": -1}, r"^temperature must be a number, 0 \(greedy\) or above, not -1$"),
        ({"temperature": "0.5"}, 'temperature must be a number, .*, not "0.5"'),
        ({"temperature": True}, "temperature must be a number, .*, not true"),
        ({"temperature": [1]}, r"temperature must be a number, .*, not \[1\]"),
        ({"temperature": 10**400}, "temperature must be a number"),
        ({"top_p": 0}, "top_p must be a number, above 0 and at most 1"),
        ({"top_k": 1.5}, "top_k must be an integer, 0 .off. or above, not 1.5"),
        ({"top_k": float("inf")}, "top_k must be an integer"),
        ({"max_tokens": 0}, "^max_tokens must be an integer, at least 1, not 0$"),
        ({"seed": -1}, "seed must be an integer, 0 or above"),
        ({"top_logprobs": True}, "top_logprobs must be an integer, at least 0, not true"),
        ({"stop": ""}, "stop must be a text or a list of texts, none of them empty"),
        ({"stop": ["a", 1]}, "stop must be a text or a list of texts"),
        ({"stop_token_ids": 5}, "stop_token_ids must be a list of token ids, not 5"),
        ({"stop_token_ids": ["5"]}, "stop_token_ids must be a list of token ids"),
        ({"logit_bias": [1]}, "logit_bias must be an object such as"),
        ({"logit_bias": {"a": 1}}, "logit_bias must be an object such as"),
        ({"logit_bias": {"1": "x"}}, "logit_bias must be an object such as"),
        ({"logit_bias": {"1": True}}, "logit_bias must be an object such as"),
        ({"logit_bias": {"1": float("inf")}}, "logit_bias must be token ids with numbers below infinity"),
        ({"json_schema": 1}, "json_schema must be a JSON schema"),
        ({"regex": 1}, "regex must be the text of a regular expression"),
        ({"json_schema": {}, "regex": "a"}, "json_schema and regex exclude each other"),
        ({"stop": "a", "stop_strings": ["b"]}, "stop_strings and another key give stop_strings twice"),
        ({"regex": ["x" * 99]}, r"not .{57}\.\.\.$"),
    ],
)
def test_a_wrong_value_names_key_and_range(record, words):
    with pytest.raises(OptionError, match=words):
        options(**record)


def test_a_seed_for_all_counts_up_and_a_lines_own_stays():
    seeds = [
        line_options(record, SamplingOptions(seed=5), index).seed for index, record in enumerate([{}, {"seed": 1}, {}])
    ]
    assert seeds == [5, 1, 7]


def test_a_lines_constraint_takes_the_place_of_the_one_for_all():
    assert line_options({"regex": "a"}, SamplingOptions(json_schema="{}"), 0) == SamplingOptions(regex="a")
