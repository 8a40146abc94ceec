"""Every architecture of the family computes what transformers computes, from the config that its authors write."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from model import ConfigError, ModelConfig, load_checkpoint, save_checkpoint
from tests.family import BASE, CONFIGS, LLAMA, make_checkpoint

TOLERANCE = 1e-5
LENGTH = 40  # beyond the original context of 16 where RoPE is scaled, and beyond every window


def tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, BASE["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(1))


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert (actual - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.fixture(params=CONFIGS)
def case(request, tmp_path):
    theirs = make_checkpoint(tmp_path / "theirs", CONFIGS[request.param])
    return load_checkpoint(tmp_path / "theirs"), theirs, tmp_path


@pytest.mark.parametrize("length", [12, LENGTH])
@torch.no_grad()
def test_logits_are_transformers(case, length):
    ours, theirs, _ = case
    assert_close(ours(tokens(2, length)), theirs(tokens(2, length)).logits)


@torch.no_grad()
def test_logits_with_a_cache_are_transformers(case):
    ours, theirs, _ = case
    ids = tokens(1, LENGTH)
    cache, their_cache = ours.new_cache(1, LENGTH), DynamicCache(config=theirs.config)
    for chunk in ids.split([9, 6, 1, 1, 15, 1, 1, 6], dim=1):
        expected = theirs(chunk, past_key_values=their_cache, use_cache=True).logits
        assert_close(ours(chunk, kv_cache=cache), expected)


@torch.no_grad()
def test_what_we_save_transformers_loads(case):
    ours, theirs, folder = case
    save_checkpoint(ours, folder / "ours")
    again = AutoModelForCausalLM.from_pretrained(folder / "ours", dtype=torch.float32).eval()
    assert_close(again(tokens(1, LENGTH)).logits, theirs(tokens(1, LENGTH)).logits)
    assert load_checkpoint(folder / "ours").config == ours.config


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_survives_transformers(name, tmp_path):
    config = ModelConfig.from_dict(CONFIGS[name])
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]))
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert ModelConfig.from_dict(json.loads(theirs.to_json_string(use_diff=False))) == config


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "gemma2"}, "gemma2"),
        ({"model_type": "mixtral"}, "mixtral"),
        (
            {"rope_scaling": {"rope_type": "longrope", "short_factor": [1], "long_factor": [1]}},
            "longrope",
        ),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}, "mrope"),
        ({"rope_scaling": {"type": "default", "mrope_section": [2, 3, 3]}}, "mrope_section"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": -1}}, "factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "4"}}, "factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0, "short_mscale": 2}}, "short_mscale"),
        ({"rope_scaling": 4}, "rope_scaling"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "head_dim": 2}, "head_dim"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_parameters": {"factor": 2.0}}, "disagree"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window"),
        ({"model_type": "smollm3", "no_rope_layers": [1, 0]}, "no_rope_layers"),
        ({"model_type": "smollm3", "no_rope_layers": [1, 0, 2, 1]}, "no_rope_layers"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 5, "layer_types": ["chunked"] * 4},
            "layer_types",
        ),
    ],
    ids=str,
)
def test_what_is_not_of_the_family_is_refused_by_name(changes, named):
    with pytest.raises(ConfigError, match=named):
        ModelConfig.from_dict(LLAMA | changes)
