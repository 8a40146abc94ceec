"""Keys of `config.json` beside those of `ModelConfig`: without effect, honoured at one value alone, or nested."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from model.errors import ConfigError

# Keys of published configs that never change the computation, whatever their value, and that are not kept.
INERT_KEYS = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _name_or_path architectures chunk_size_feed_forward
    dtype id2label is_llama_config label2id model_type name_or_path output_attentions output_hidden_states
    pretraining_tp problem_type return_dict task_specific_params tokenizer_class torch_dtype transformers.js_config
    transformers_version use_cache
    """.split()
)
# Keys that change the computation, with the values at which they do not.
FIXED_VALUES: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish", None),
    "partial_rotary_factor": (1, None),
    **dict.fromkeys(("is_encoder_decoder", "add_cross_attention", "alibi", "use_parallel_residual"), (False, None)),
    **dict.fromkeys(
        (
            "attention_multiplier",
            "embedding_multiplier",
            "logit_scale",
            "logits_scaling",
            "residual_multiplier",
        ),
        (1, None),
    ),
    **dict.fromkeys(
        (
            "attn_logit_softcapping",
            "clip_qkv",
            "final_logit_softcapping",
            "logit_softcapping",
            "num_experts",
            "num_local_experts",
            "quantization_config",
        ),
        (None, 0),
    ),
}
# Keys that are read into other fields, or that say nothing more beside them.
CONSUMED_KEYS = frozenset(
    """
    rope_parameters rope_scaling original_max_position_embeddings use_sliding_window max_window_layers
    no_rope_layer_interval
    """.split()
)


def refuse_unsupported(values: Mapping[str, Any]) -> None:
    """Raise ConfigError, naming the key, where one changes the computation in a way that is not implemented."""
    for key, value in values.items():
        if key in FIXED_VALUES and value not in FIXED_VALUES[key]:
            allowed = " or ".join(json.dumps(choice) for choice in FIXED_VALUES[key])
            raise ConfigError(f"{key} = {json.dumps(value)} is not supported: it must be {allowed}")


def flatten_nanotron(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Nanotron's training file keeps the model under `model.model_config` and its init std beside it."""
    section = values.get("model")
    if not isinstance(section, Mapping) or "model_config" not in section:
        return values
    if not isinstance(section["model_config"], Mapping):
        raise ConfigError("model.model_config must be an object")
    init_method = section.get("init_method") or {}
    initializer = {"initializer_range": init_method["std"]} if "std" in init_method else {}
    return {**section["model_config"], **initializer}
