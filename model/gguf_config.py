"""The config of a GGUF file, from its metadata (llama.cpp's `docs/gguf.md`) and the names of its tensors.

A key of the architecture that is not read here changes what is computed in a way that is not known, so it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.config import ModelConfig
from model.errors import ConfigError
from model.gguf_file import GGUFFile

# Architecture -> whether llama.cpp's converter reorders its queries and keys for adjacent rotary pairs.
ARCHITECTURES = {"llama": True, "qwen2": False, "qwen3": False, "smollm3": True}
ROPE_FACTORS = "rope_freqs.weight"
# Key of the architecture -> key of config.json.
_SIZES = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_READ = {
    *_SIZES,
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.sliding_window",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
}
# Keys without an effect, whatever their value, and those that have none at one value.
_INERT = {"vocab_size", "rope.scaling.finetuned", "tensor_data_layout", "attention.layer_norm_epsilon"}
_NEUTRAL = {
    "attention.causal": True,
    "expert_count": 0,
    "expert_used_count": 0,
    "rope.scaling.attn_factor": 1.0,
    "use_parallel_residual": False,
}
# Published Llama 3.x models: low_freq_factor, high_freq_factor, original_max_position_embeddings.
_LLAMA3 = (1.0, 4.0, 8192)


def read_gguf_config(file: GGUFFile) -> ModelConfig:
    """The config of the model in a GGUF file.

    Raises:
        ConfigError: another architecture, an absent key, or one that cannot be honoured; it names file and key.
    """
    try:
        return ModelConfig.from_dict(_config_values(file))
    except ConfigError as error:
        raise ConfigError(f"{file.path}: {error}") from None


def gguf_architecture(file: GGUFFile) -> str:
    """The architecture that a file names. Raises ConfigError where it is not of the family."""
    architecture = file.metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"architecture {architecture!r} is another one; SmolText reads {', '.join(ARCHITECTURES)}")
    return str(architecture)


def _config_values(file: GGUFFile) -> dict[str, Any]:
    """What `config.json` would say."""
    architecture, shapes = gguf_architecture(file), file.shapes
    settings = _settings(file.metadata, architecture)
    values: dict[str, Any] = {name: settings[key] for key, name in _SIZES.items() if key in settings}
    missing = sorted(f"{architecture}.{key}" for key in _SIZES if key not in settings)
    missing += [name for name in ("token_embd.weight",) if name not in shapes]
    if missing:
        raise ConfigError(f"the file lacks {', '.join(missing)}")
    values |= {
        "model_type": architecture,
        "vocab_size": shapes["token_embd.weight"][0],
        "num_key_value_heads": settings.get("attention.head_count_kv", values["num_attention_heads"]),
        "head_dim": _head_dim(settings, values),
        "rope_theta": settings.get("rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(file, settings),
        "tie_word_embeddings": "output.weight" not in shapes,
        "attention_bias": architecture != "qwen2" and "blk.0.attn_q.bias" in shapes,
        "mlp_bias": "blk.0.ffn_gate.bias" in shapes,
    }
    window = settings.get("attention.sliding_window", 0)
    if 0 < window < values["max_position_embeddings"]:
        if architecture != "llama":
            raise ConfigError(f"{architecture}.attention.sliding_window = {window} is not supported: which layers?")
        values |= {"model_type": "mistral", "sliding_window": window}
    return values | _token_ids(file.metadata)


def _settings(metadata: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """The architecture's keys without its name; a list with one value for all layers is that value."""
    prefix = f"{architecture}."
    found = {key.removeprefix(prefix): _single(metadata[key]) for key in metadata if key.startswith(prefix)}
    for key, value in found.items():
        is_known = key in _READ | _INERT or (key in _NEUTRAL and _NEUTRAL[key] == value)
        if not is_known or (key in _READ and isinstance(value, list)):
            raise ConfigError(f"{prefix}{key} = {value!r} is not supported")
    return found


def _single(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(set(value)) == 1 else value


def _head_dim(settings: Mapping[str, Any], values: Mapping[str, Any]) -> int:
    derived = values["hidden_size"] // max(values["num_attention_heads"], 1)
    head_dim = int(settings.get("attention.key_length", derived))
    for key in ("attention.value_length", "rope.dimension_count"):
        if settings.get(key, head_dim) != head_dim:
            raise ConfigError(f"{key} = {settings[key]} is not supported: it must be the head's size, {head_dim}")
    return head_dim


def _token_ids(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The special tokens; the end of a turn ends a text too, as in llama.cpp."""
    key = "tokenizer.ggml.{}_token_id"
    ends = [metadata[key.format(name)] for name in ("eos", "eot", "eom") if key.format(name) in metadata]
    ends = list(dict.fromkeys(ends))
    return {
        "bos_token_id": metadata.get(key.format("bos")),
        "eos_token_id": ends if len(ends) > 1 else next(iter(ends), None),
        "pad_token_id": metadata.get(key.format("padding")),
    }


def _rope_scaling(file: GGUFFile, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The `rope_scaling` of config.json; llama3's is in a tensor of factors and not in the metadata."""
    rope_type = settings.get("rope.scaling.type", "linear")  # llama.cpp's default, with a factor of 1
    factor = settings.get("rope.scaling.factor") or settings.get("rope.scale_linear") or 1.0
    if rope_type == "linear" and factor == 1:
        rope_type = "none"
    if ROPE_FACTORS in file.shapes:
        if rope_type != "none":
            raise ConfigError(f"{ROPE_FACTORS} beside rope.scaling.type {rope_type!r} is not supported")
        return llama3_scaling(file.tensor(ROPE_FACTORS), settings.get("rope.freq_base", 10000.0))
    if rope_type == "none":
        return None
    if rope_type not in ("linear", "yarn"):
        raise ConfigError(f"rope.scaling.type {rope_type!r} is not supported; there are none, linear, yarn")
    scaling = {"rope_type": rope_type, "factor": factor}
    if rope_type == "yarn":
        names = {
            "original_max_position_embeddings": "rope.scaling.original_context_length",
            "beta_fast": "rope.scaling.yarn_beta_fast",
            "beta_slow": "rope.scaling.yarn_beta_slow",
        }
        scaling |= {name: settings[key] for name, key in names.items() if key in settings}
    return scaling


def llama3_scaling(factors: NDArray[np.float32], theta: float) -> dict[str, Any] | None:
    """The settings of llama3's scaling, from the number by which it divides each frequency.

    Between the two bounds 1 / factor is linear in the frequency. Scaling both bounds and the original context by one
    number changes nothing, so `low_freq_factor` is 1.

    Args:
        factors: float32 [head_dim / 2].
        theta: the base of RoPE.

    Raises:
        ConfigError: no such settings give these factors.
    """
    if np.allclose(factors, 1):
        return None
    frequencies = theta ** (-np.arange(factors.size) / factors.size) / (2 * math.pi)  # turns per token
    factor = float(str(np.float32(factors.max())))
    smooth = (1 / factors.astype(np.float64) - 1 / factor) / (1 - 1 / factor)
    candidates = [_LLAMA3]
    between = (smooth > 1e-6) & (smooth < 1 - 1e-6)
    if between.sum() >= 2:
        slope, intercept = np.polyfit(frequencies[between], smooth[between], 1)
        if intercept < 0:
            candidates.append((1.0, round(1 - 1 / intercept, 4), round(-slope / intercept)))
    for low, high, original in candidates:
        expected = np.clip((original * frequencies - low) / (high - low), 0, 1)
        if np.allclose(expected, smooth, atol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    raise ConfigError(f"{ROPE_FACTORS} holds other factors than those of rope_type 'llama3': it is not supported")
