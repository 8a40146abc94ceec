"""Sampling defaults of generation_config.json: what transformers would read, or a line that names the key."""

from __future__ import annotations

import json

import pytest

from runtime import Bundle
from runtime.errors import BundleError
from runtime.generation_config import NAMES, generation_defaults, stored_defaults
from tests.runtime.files import edit_json

SMOLLM2_INSTRUCT = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "transformers_version": "4.42.3"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SMOLLM2_INSTRUCT, {}),
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.05},
            {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.05},
        ),
        ({"temperature": 0.2, "max_new_tokens": 2048}, {"temperature": 0.2, "max_new_tokens": 2048}),
        ({"do_sample": False, "temperature": 0.9, "top_p": 0.6}, {"temperature": 0.0, "top_p": 0.6}),
        ({"do_sample": None, "temperature": None, "top_k": None}, {}),
        ({"temperature": 1, "min_p": 0.05, "top_k": 0}, {"temperature": 1.0, "min_p": 0.05, "top_k": 0}),
        ({"num_beams": 4, "top_h": 0.3}, {}),
        ({"do_sample": False, "top_p": 0.0, "top_k": -1, "temperature": -1.0}, {"temperature": 0.0}),
        ({"max_length": 4096}, {"max_new_tokens": 4096}),
        ({"max_length": 4096, "max_new_tokens": 64}, {"max_new_tokens": 64}),
        ({"max_length": None}, {}),
    ],
)
def test_defaults_are_the_keys_that_the_author_set(config, expected):
    assert generation_defaults(config) == expected


def test_names_and_values_are_those_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    values = {
        "temperature": 0.6, "top_k": 17, "top_p": 0.8, "min_p": 0.1, "typical_p": 0.7, "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3, "min_new_tokens": 4, "max_new_tokens": 99,
    }  # fmt: skip
    assert values.keys() == set(NAMES)
    transformers.GenerationConfig(do_sample=True, **values).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation_defaults(stored) == values


@pytest.mark.parametrize(
    "stored",
    [
        {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.05},
        {"do_sample": False, "temperature": 0.9},
        {"do_sample": True, "min_p": 0.1, "typical_p": 0.5, "no_repeat_ngram_size": 3, "max_new_tokens": 7},
        {"do_sample": True, "top_k": None, "temperature": 1},
        {"max_length": 50},
        SMOLLM2_INSTRUCT,
    ],
)
def test_effective_defaults_are_those_transformers_reads(stored, broken_bundle):
    transformers = pytest.importorskip("transformers")
    edit_json(broken_bundle / "generation_config.json", **stored)
    if "top_k" in stored:
        (broken_bundle / "generation_config.json").write_text(json.dumps(stored))  # a null stays one
    theirs = transformers.GenerationConfig.from_pretrained(broken_bundle)
    expected = {name: value for name in NAMES if (value := getattr(theirs, name)) is not None}
    if theirs.do_sample is False:
        expected["temperature"] = 0
    if theirs.max_new_tokens is None and theirs.max_length is not None:
        expected["max_new_tokens"] = theirs.max_length
    defaults = Bundle.open(broken_bundle).generation_defaults
    assert defaults == expected
    assert ("max_length" in stored_defaults(defaults)) == (theirs.max_length is not None)


@pytest.mark.parametrize("name", ["repetition_penalty", "min_new_tokens", "max_length"])
def test_what_greedy_decoding_reads_is_checked_without_sampling(name):
    with pytest.raises(BundleError, match=f"{name} must be"):
        generation_defaults({"do_sample": False, name: -1})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("temperature", "hot", "temperature must be a number, not 'hot'"),
        ("temperature", -1, "temperature must be 0 .greedy. or above, not -1"),
        ("temperature", float("nan"), "temperature must be"),
        ("top_k", 2.5, "top_k must be an integer, not 2.5"),
        ("top_k", True, "top_k must be an integer, not True"),
        ("top_p", 1.5, "top_p must be above 0 and at most 1"),
        ("top_p", [0.9], "top_p must be a number"),
        ("repetition_penalty", 0, "repetition_penalty must be above 0"),
        ("max_new_tokens", 0, "max_new_tokens must be at least 1"),
        ("max_length", 0, "max_length must be at least 1, not 0"),
        ("max_length", "long", "max_length must be an integer, not 'long'"),
        ("do_sample", "no", "do_sample must be true or false, not 'no'"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_file(name, value, words, broken_bundle):
    edit_json(broken_bundle / "generation_config.json", **{name: value})
    with pytest.raises(BundleError, match=f"^generation_config.json: {words}"):
        Bundle.open(broken_bundle)


def test_a_bundle_has_the_defaults_of_its_file(broken_bundle):
    edit_json(broken_bundle / "generation_config.json", temperature=0.3, top_k=5)
    assert Bundle.open(broken_bundle).generation_defaults == {"temperature": 0.3, "top_k": 5}
