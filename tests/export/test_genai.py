"""`genai_config.json` says what the graph and the ids are; onnxruntime-genai itself runs in `make compat`."""

from __future__ import annotations

import pytest

from export.genai import genai_config
from model import ModelConfig
from runtime import contract
from tests.export.graphs import BASE


def config(**changes) -> ModelConfig:
    return ModelConfig(**(BASE | changes))


def test_names_are_the_contracts():
    decoder = genai_config(config(), {}, ["fp32"], in_place_cache=True)["model"]["decoder"]
    names = decoder["inputs"] | decoder["outputs"]
    assert names.pop("past_key_names") % 3 == contract.past_names(3)[0]
    assert names.pop("past_value_names") % 3 == contract.past_names(3)[1]
    assert names.pop("present_key_names") % 3 == contract.present_names(3)[0]
    assert names.pop("present_value_names") % 3 == contract.present_names(3)[1]
    assert names == {name: name for name in ("input_ids", "attention_mask", "position_ids", "logits")}


def test_sizes_are_the_models():
    content = genai_config(config(), {}, ["fp32"], in_place_cache=True)["model"]
    assert content["context_length"] == BASE["max_position_embeddings"]
    assert content["decoder"]["head_size"] == BASE["head_dim"]
    for name in ("num_attention_heads", "num_key_value_heads", "num_hidden_layers", "hidden_size"):
        assert content["decoder"][name] == BASE[name]


@pytest.mark.parametrize(
    ("precisions", "file"),
    [(["fp32", "int8", "q8"], "model_int8.onnx"), (["fp32", "q8"], "model_quantized.onnx"), (["fp32"], "model.onnx")],
)
def test_the_graph_is_the_one_that_our_runtime_prefers(precisions, file):
    assert genai_config(config(), {}, precisions, in_place_cache=True)["model"]["decoder"]["filename"] == f"onnx/{file}"


@pytest.mark.parametrize(("precisions", "asked"), [(["int8", "q8"], True), (["q8"], True), (["fp32", "int8"], False)])
def test_exact_products_are_asked_for_wherever_a_graph_that_needs_them_may_be_overlaid(precisions, asked):
    decoder = genai_config(config(), {}, precisions, in_place_cache=True)["model"]["decoder"]
    assert (decoder["session_options"].get("session.x64quantprecision") == "1") is asked


@pytest.mark.parametrize(
    ("changes", "generation", "expected"),
    [
        ({}, {}, {"pad_token_id": 0}),
        ({"bos_token_id": 1, "eos_token_id": 2}, {}, {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}),
        ({"eos_token_id": 2}, {"eos_token_id": [3, 4]}, {"eos_token_id": [3, 4], "pad_token_id": 3}),
        ({"eos_token_id": 2, "pad_token_id": 5}, {"eos_token_id": None}, {"eos_token_id": 2, "pad_token_id": 5}),
    ],
)
def test_special_tokens(changes, generation, expected):
    content = genai_config(config(**changes), generation, ["fp32"], in_place_cache=True)["model"]
    assert {name: content[name] for name in content if name.endswith("token_id")} == expected


def test_a_graph_without_an_in_place_cache_shares_no_buffer():
    assert genai_config(config(), {}, ["fp32"], in_place_cache=True)["search"]["past_present_share_buffer"]
    assert not genai_config(config(), {}, ["fp32"], in_place_cache=False)["search"]["past_present_share_buffer"]
