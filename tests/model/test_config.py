"""A config is read in both spellings, written so that transformers reads it, and never half understood."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from transformers import AutoConfig

from model import ConfigError, ModelConfig, TransformerModel, preset_names
from model.parameters import describe_parameters, parameter_counts
from tests.conftest import REPOSITORY

SMALL = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_survives_a_round_trip(name):
    config = ModelConfig.from_preset(name)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_presets_are_the_published_models_and_the_seeds_variant():
    assert preset_names() == ["smollm2-1.7b", "smollm2-135m", "smollm2-360m", "smoltextgen-135m", "tiny"]
    totals = {name: parameter_counts(ModelConfig.from_preset(name))["total"] for name in preset_names()}
    # The counts that the Hub shows for SmolLM2.
    assert totals["smollm2-135m"] == 134_515_008
    assert totals["smollm2-360m"] == 361_821_120
    assert totals["smollm2-1.7b"] == 1_711_376_384
    variant = ModelConfig.from_preset("smoltextgen-135m")
    assert variant.learned_position_embeddings
    assert variant.rope_interleaved
    assert variant.attention_bias
    assert variant.mlp_bias
    assert variant.max_position_embeddings == 2048


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention_bias": True, "mlp_bias": True},
        {"tie_word_embeddings": True},
        {"learned_position_embeddings": True},
    ],
    ids=str,
)
def test_parameters_counted_by_part_add_up_to_those_of_the_model(changes):
    config = ModelConfig.from_dict(SMALL | changes)
    assert parameter_counts(config)["total"] == sum(p.numel() for p in TransformerModel(config).parameters())
    assert f"{parameter_counts(config)['total']:,}" in describe_parameters(config)


def test_the_published_config_of_smollm2_is_our_preset(shared_data):
    published = ModelConfig.from_file(shared_data / "smollm2-tokenizer" / "config.json")
    assert published == ModelConfig.from_preset("smollm2-135m")


def test_the_nanotron_file_is_read_through_its_nesting(shared_data):
    config = ModelConfig.from_file(shared_data / "reference" / "config_smollm2_135M.json")
    assert (config.hidden_size, config.num_hidden_layers, config.num_key_value_heads) == (576, 30, 3)
    assert config.max_position_embeddings == 2048
    assert config.initializer_range == pytest.approx(1 / 24)


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 5000.0},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
        {"rope_theta": 5000, "rope_parameters": {"rope_theta": 5000.0}},
    ],
    ids=["old", "new", "both"],
)
def test_rope_theta_is_read_in_every_spelling(spelling):
    assert ModelConfig.from_dict(SMALL | spelling).rope_theta == 5000.0


def test_transformers_reads_what_we_write(tmp_path):
    config = ModelConfig.from_dict(SMALL | {"rope_theta": 5000.0, "bos_token_id": 0, "eos_token_id": [1, 2]})
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert theirs.model_type == "llama"
    assert theirs.rope_parameters["rope_theta"] == 5000.0
    assert theirs.eos_token_id == [1, 2]
    assert ModelConfig.from_dict(theirs.to_dict()) == config


@pytest.mark.parametrize("variant", [{"rope_interleaved": True}, {"learned_position_embeddings": True}], ids=str)
def test_transformers_refuses_a_variant_that_it_would_compute_wrongly(variant, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(ModelConfig.from_dict(SMALL | variant).to_dict()))
    with pytest.raises(ValueError, match="smoltextgen"):
        AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "longrope"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e5}}, "disagree"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_experts": 8}, "num_experts"),
        ({"logit_softcapping": 30.0}, "logit_softcapping"),
        ({"vocab_size": None}, "vocab_size"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_attention_heads": 3}, "num_attention_heads"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"head_dim": 7}, "head_dim"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"eos_token_id": 96}, "96"),
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused_by_name(changes, named):
    with pytest.raises(ConfigError, match=named):
        ModelConfig.from_dict(SMALL | changes)


CARRIED = {
    "unsloth_version": "2024.9",
    "unsloth_fixed": True,
    "max_sequence_length": 4096,
    "max_length": 20,
    "attention_dropout": 0.1,
    "a_key_of_tomorrow": {"deep": [1, 2]},
}


def test_keys_without_effect_are_carried_along_and_named_once(tmp_path, caplog):
    path = tmp_path / "config.json"
    ignored = {"sliding_window": 1024, "pad_token_id": -1, "use_cache": False, "unknown_and_empty": None}
    path.write_text(json.dumps(SMALL | CARRIED | ignored))
    config, again = ModelConfig.from_file(path), ModelConfig.from_file(path)
    assert config == again == ModelConfig.from_dict(SMALL)
    assert config.pad_token_id is None
    assert {key: config.to_dict()[key] for key in CARRIED} == CARRIED
    (line,) = [record.getMessage() for record in caplog.records]
    assert "\n" not in line
    assert all(name in line for name in [str(path), *CARRIED, "sliding_window", "pad_token_id -1"])
    assert "did you mean" not in line
    assert "sliding_window" not in config.to_dict()  # to another architecture than llama it would mean something
    assert "use_cache" not in line
    assert "unknown_and_empty" not in line


def test_that_line_goes_to_stderr(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(SMALL | {"num_hiden_layers": 3}))
    script = f"from model import ModelConfig; ModelConfig.from_file({str(path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == ""
    assert done.stderr == (
        f"{path}: carried along without effect: num_hiden_layers (did you mean num_hidden_layers?)\n"
    )


def test_a_byte_order_mark_is_read_over(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(SMALL), encoding="utf-8-sig")
    assert ModelConfig.from_file(path) == ModelConfig.from_dict(SMALL)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"model": 1}', "[" * 100_000, '{"a":' * 100_000])
def test_a_file_that_is_no_config_is_named(content, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json") as caught:
        ModelConfig.from_file(path)
    assert "\n" not in str(caught.value)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ConfigError, match="smollm2-135m"):
        ModelConfig.from_preset("smollm3")
