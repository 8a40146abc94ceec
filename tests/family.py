"""Tiny configs of every architecture of the family, as their authors would write `config.json`, and their oracle.

The oracle is transformers: it draws the weights, stores them, and computes the logits that ours must equal.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

LAYERS = 4
BASE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA = BASE | {"model_type": "llama", "rope_theta": 1000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
SHORT = {"max_position_embeddings": 16}
QWEN2 = BASE | {"model_type": "qwen2", "rope_theta": 1000.0}
QWEN3 = BASE | {"model_type": "qwen3", "rope_theta": 1000.0, "head_dim": 32}
SMOLLM3 = BASE | {"model_type": "smollm3", "rope_theta": 1000.0}
MISTRAL = BASE | {"model_type": "mistral", "rope_theta": 1000.0}


def without(config: dict, *keys: str) -> dict:
    return {key: value for key, value in config.items() if key not in keys}


CONFIGS: dict[str, dict] = {
    "llama2": without(LLAMA, "num_key_value_heads", "rope_theta", "tie_word_embeddings"),
    "llama without rms_norm_eps": without(LLAMA, "rms_norm_eps"),
    "tinyllama": LLAMA | {"num_key_value_heads": 1},
    "smollm2": LLAMA | {"tie_word_embeddings": True, "rope_interleaved": False, "is_llama_config": True},
    "llama with biases": LLAMA | {"attention_bias": True, "mlp_bias": True},
    "llama3, old spelling": LLAMA | {"rope_theta": 500.0, "rope_scaling": LLAMA3},
    "llama3, new spelling": without(LLAMA, "rope_theta") | {"rope_parameters": LLAMA3 | {"rope_theta": 500.0}},
    "llama3, without original": LLAMA | {"rope_scaling": without(LLAMA3, "original_max_position_embeddings")},
    "default rope, named": LLAMA | {"rope_scaling": {"rope_type": "default"}},
    "linear": LLAMA | SHORT | {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "linear, new spelling": without(LLAMA, "rope_theta")
    | SHORT
    | {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 1000.0}},
    "dynamic": LLAMA | SHORT | {"rope_scaling": {"type": "dynamic", "factor": 4.0}},
    "yarn": LLAMA | {"rope_scaling": YARN},
    "yarn of the original context": LLAMA | SHORT | {"rope_scaling": without(YARN, "original_max_position_embeddings")},
    "yarn, its ramp": LLAMA | {"rope_scaling": YARN | {"beta_fast": 2.0, "beta_slow": 0.5, "truncate": False}},
    "yarn, mscale": LLAMA | {"rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}},
    "yarn, attention_factor": LLAMA | {"rope_scaling": YARN | {"attention_factor": 1.3}},
    "yarn without factor": LLAMA | {"rope_scaling": YARN | {"factor": None}},
    "mistral": MISTRAL | {"sliding_window": None},
    "mistral, an absent window": MISTRAL,
    "mistral, a window": MISTRAL | {"sliding_window": 7, "head_dim": 16},
    "qwen2": QWEN2 | {"use_sliding_window": False, "sliding_window": 8, "max_window_layers": 1},
    "qwen2, tied, yarn": QWEN2 | {"tie_word_embeddings": True, "rope_scaling": YARN},
    "qwen2, windows": QWEN2 | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
    "qwen3": QWEN3,
    "qwen3, biases": QWEN3 | {"attention_bias": True, "tie_word_embeddings": True},
    "qwen3, an absent head_dim": without(QWEN3, "head_dim"),
    "qwen3, windows": QWEN3
    | {
        "use_sliding_window": True,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2),
    },
    "smollm3": without(SMOLLM3, "tie_word_embeddings", "rope_theta"),
    "smollm3, its layers": SMOLLM3 | {"no_rope_layers": [0, 1, 1, 0]},
    "smollm3, windows": SMOLLM3 | {"no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": 5},
    "smollm3, biases, yarn": SMOLLM3 | {"attention_bias": True, "rope_scaling": YARN},
}


def make_checkpoint(folder: Path, config: dict, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Random weights by transformers in `folder`, beside the config as it is given; returns transformers' model."""
    folder.mkdir(parents=True, exist_ok=True)
    config_path = folder / "config.json"
    config_path.write_text(json.dumps(config))
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # norms and biases too must matter
            parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.to(dtype).save_pretrained(folder)
    config_path.write_text(json.dumps(config))
    # Read anew: `to` has rounded the frequencies of RoPE too.
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
