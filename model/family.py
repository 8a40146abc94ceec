"""The architectures of the family: one model with switches, under the names that Hugging Face gives its settings.

An architecture says which switches its `config.json` has, which it implies, and what transformers assumes where a key
is absent. Whatever is not listed here is another family and is refused by its `model_type`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from model.errors import ConfigError
from model.rope import DEFAULT_THETA

# The switches of `ModelConfig`: whatever tells one architecture from another, each with its usual value.
SWITCHES: dict[str, Any] = {
    "rope_interleaved": False,
    "learned_position_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "qkv_bias": False,
    "qk_norm": False,
    "no_rope_layers": None,
    "sliding_window": None,
    "layer_types": None,
}
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Architecture:
    """One `model_type`.

    Attributes:
        model_type: as `config.json` spells it.
        class_name: transformers' class.
        switches: those that its config.json can set; transformers ignores the others.
        implied: switches that it always has, and that its config.json does not name.
        defaults: what an absent key means.
        rope_theta: what an absent `rope_theta` means.
        flagged_window: `sliding_window` counts only beside `use_sliding_window`, for the layers of `layer_types`.
    """

    model_type: str
    class_name: str
    switches: frozenset[str]
    implied: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    rope_theta: float = DEFAULT_THETA
    flagged_window: bool = False

    def represents(self, switches: Mapping[str, Any]) -> bool:
        """Whether its config.json can say that a model has these switches."""
        unusual = {name for name, usual in SWITCHES.items() if switches[name] != usual}
        return self.implied.keys() <= unusual <= self.implied.keys() | self.switches


_WINDOW = frozenset({"sliding_window", "layer_types"})
_BIASES = frozenset({"attention_bias", "mlp_bias"})
# Nanotron's files name no model_type and may set these.
_NANOTRON = frozenset({"rope_interleaved", "learned_position_embeddings"})
# transformers must refuse the last one: it has neither interleaved RoPE nor learned positions.
ARCHITECTURES = (
    Architecture("llama", "LlamaForCausalLM", _BIASES),
    Architecture(
        "mistral",
        "MistralForCausalLM",
        frozenset({"sliding_window"}),
        defaults={"num_key_value_heads": 8, "sliding_window": 4096},
    ),
    Architecture(
        "qwen2",
        "Qwen2ForCausalLM",
        _WINDOW,
        implied={"qkv_bias": True},
        defaults={"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28},
        flagged_window=True,
    ),
    Architecture(
        "qwen3",
        "Qwen3ForCausalLM",
        _WINDOW | {"attention_bias"},
        implied={"qk_norm": True},
        defaults={
            "num_key_value_heads": 32,
            "head_dim": 128,
            "sliding_window": 4096,
            "max_window_layers": 28,
        },
        flagged_window=True,
    ),
    Architecture(
        "smollm3",
        "SmolLM3ForCausalLM",
        _WINDOW | _BIASES | {"no_rope_layers"},
        defaults={
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
            "no_rope_layer_interval": 4,
        },
        rope_theta=2000000.0,
        flagged_window=True,
    ),
    Architecture("smoltextgen", "SmolTextGenForCausalLM", frozenset(SWITCHES)),
)
LLAMA, VARIANT = ARCHITECTURES[0], ARCHITECTURES[-1]
# Absent keys of every architecture.
COMMON_DEFAULTS = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False}


def architecture_of(values: Mapping[str, Any]) -> Architecture:
    """The architecture that a `config.json` names; llama where it names none, which nanotron's files do not.

    Raises:
        ConfigError: a `model_type` that is not of the family.
    """
    model_type = values.get("model_type") or LLAMA.model_type
    for architecture in ARCHITECTURES:
        if architecture.model_type == model_type:
            return architecture
    known = ", ".join(architecture.model_type for architecture in ARCHITECTURES)
    raise ConfigError(f"model_type {model_type!r} is another architecture; SmolText has {known}")


def architecture_for(switches: Mapping[str, Any]) -> Architecture:
    """The first architecture whose config.json can say that a model has these switches."""
    return next(architecture for architecture in ARCHITECTURES if architecture.represents(switches))


def read_switches(architecture: Architecture, values: Mapping[str, Any]) -> dict[str, Any]:
    """The switches of a `config.json` with `num_hidden_layers` and `max_position_embeddings`.

    Raises:
        ConfigError: a list of layers that is too short or has other entries than it may.
    """
    readable = architecture.switches | (_NANOTRON if architecture is LLAMA else frozenset())
    found = {name: values[name] for name in readable if SWITCHES[name] is False and values.get(name) is not None}
    found |= architecture.implied
    if "no_rope_layers" in readable:
        found["no_rope_layers"] = _no_rope_layers(architecture, values)
    if "sliding_window" in readable:
        found["sliding_window"], found["layer_types"] = _window(architecture, values, found.get("no_rope_layers"))
    return found


def _no_rope_layers(architecture: Architecture, values: Mapping[str, Any]) -> tuple[int, ...] | None:
    """1 for each layer with RoPE and 0 for each without; None where all have it."""
    layers, flags = values["num_hidden_layers"], values.get("no_rope_layers")
    interval = values.get("no_rope_layer_interval", architecture.defaults.get("no_rope_layer_interval"))
    if flags is None and interval is not None:
        flags = [int((layer + 1) % interval != 0) for layer in range(layers)]
    if flags is None:
        return None
    if not isinstance(flags, list) or len(flags) < layers or not all(flag in (0, 1) for flag in flags):
        raise ConfigError(f"no_rope_layers must be a list of 0 and 1, one for each of {layers} layers, not {flags!r}")
    return None if all(flags[:layers]) else tuple(int(flag) for flag in flags[:layers])


def _window(
    architecture: Architecture, values: Mapping[str, Any], no_rope_layers: tuple[int, ...] | None
) -> tuple[int | None, tuple[str, ...] | None]:
    """The window in tokens, None where no layer has one; and the layers' types, None where all are alike."""
    layers = values["num_hidden_layers"]
    window = values.get("sliding_window", architecture.defaults.get("sliding_window"))
    if architecture.flagged_window and not values.get("use_sliding_window", False):
        window = None
    if window is None or (isinstance(window, int) and window >= values["max_position_embeddings"]):
        return None, None
    types = values.get("layer_types") if "layer_types" in architecture.switches else None
    if types is None and no_rope_layers is not None:
        types = [FULL if has_rope else SLIDING for has_rope in no_rope_layers]
    elif types is None and architecture.flagged_window:
        first = values.get("max_window_layers", architecture.defaults.get("max_window_layers", layers))
        types = [SLIDING if layer >= first else FULL for layer in range(layers)]
    if types is None:
        return window, None
    if not isinstance(types, list) or len(types) != layers or not set(types) <= {FULL, SLIDING}:
        raise ConfigError(f"layer_types must name {FULL} or {SLIDING} for each of {layers} layers, not {types!r}")
    if SLIDING not in types:
        return None, None
    return window, None if FULL not in types else tuple(types)


def write_switches(architecture: Architecture, switches: Mapping[str, Any]) -> dict[str, Any]:
    """The keys by which a `config.json` of this architecture says these switches."""
    written = {name: switches[name] for name in SWITCHES if name in architecture.switches}
    written = {name: list(value) if isinstance(value, tuple) else value for name, value in written.items()}
    layers = switches["num_hidden_layers"]
    if architecture.flagged_window and switches["sliding_window"] is not None:
        written["use_sliding_window"] = True
        written["layer_types"] = written["layer_types"] or [SLIDING] * layers
    if "no_rope_layer_interval" in architecture.defaults:  # absent, it would mean every fourth
        written["no_rope_layers"] = written["no_rope_layers"] or [1] * layers
    return written
