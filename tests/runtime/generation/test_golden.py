"""Golden: what other programs wrote with the same weights and tokenizers."""

from __future__ import annotations

import json

import pytest

from runtime import LanguageModel
from runtime.__main__ import main
from tests.runtime.options import greedy


@pytest.fixture(scope="module", params=[0, 1], ids=["llama2.c", "transformers"])
def case(request, shared_data):
    return json.loads((shared_data / "stories260k" / "golden.json").read_text())["cases"][request.param]


@pytest.fixture(scope="module")
def stories_model(stories260k_bundle):
    return LanguageModel.load(stories260k_bundle, precision="fp32")


def test_greedy_ids_and_text_are_the_golden_ones(case, stories_model):
    new_ids = case["ids"][len(case["prompt_ids"]) :]
    result = stories_model.generate(case["prompt"], greedy(max_new_tokens=len(new_ids)))
    assert stories_model.tokenizer.encode(case["prompt"]) == case["prompt_ids"]
    assert result.token_ids == new_ids
    assert case["prompt"] + result.text == case["text"]


def test_the_command_prints_exactly_the_golden_text(case, stories260k_bundle, capsys):
    new_tokens = min(256, len(case["ids"]) - len(case["prompt_ids"]))
    options = ["--greedy", "--precision", "fp32", "--max-new-tokens", str(new_tokens)]
    assert main(["generate", str(stories260k_bundle), "--prompt", case["prompt"], *options]) == 0
    printed = capsys.readouterr()
    assert printed.out == case["text"] + "\n"
    assert printed.err == ""


@pytest.mark.parametrize("precision", ["int8", "q8"])
def test_int8_text_begins_as_the_golden_one(precision, stories260k_bundle, stories_model):
    quantized = LanguageModel.load(stories260k_bundle, precision=precision)
    expected, found = (m.generate("", greedy(max_new_tokens=16)).text for m in (stories_model, quantized))
    assert found == expected
