"""ModelConfig: the shape of a LLaMA-style decoder, read from and written to `config.json`.

Two spellings are read: Hugging Face's `config.json` and the nanotron-style training file that nests the same keys
under `model.model_config`. A key that would change the computation in a way we do not implement is an error with its
name; nothing is ignored in silence.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import ConfigError

PRESETS_FOLDER = Path(__file__).parent / "presets"

# Keys of published llama configs that never change the computation, whatever their value.
INERT_KEYS = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _name_or_path architectures chunk_size_feed_forward
    dtype id2label is_llama_config label2id model_type name_or_path output_attentions output_hidden_states
    problem_type return_dict task_specific_params tokenizer_class torch_dtype transformers.js_config
    transformers_version use_cache
    """.split()
)
# Keys that we honour at one value alone: any other value is another architecture.
FIXED_VALUES: dict[str, tuple[Any, ...]] = {
    "attention_dropout": (0, None),
    "hidden_act": ("silu", "swish"),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "partial_rotary_factor": (1, None),
    "pretraining_tp": (1, None),
    "rope_scaling": (None,),
    "sliding_window": (None,),
    "quantization_config": (None,),
}
# transformers must refuse what it would compute wrongly: it knows neither interleaved RoPE nor learned positions here.
STANDARD_MODEL_TYPE = "llama"
VARIANT_MODEL_TYPE = "smoltextgen"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a model. Field names and defaults are those of Hugging Face's LlamaConfig.

    Raises:
        ConfigError: sizes that cannot form a model (a head count that does not divide, an odd `head_dim`, ...).
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_interleaved: bool = False
    learned_position_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_field(field, getattr(self, field.name))
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim must be even for rotary embeddings, not {self.head_dim}")
        for token_id in self.special_token_ids:
            if not isinstance(token_id, int) or not 0 <= token_id < self.vocab_size:
                raise ConfigError(f"special token id {token_id!r} is outside the vocabulary of {self.vocab_size}")

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The end-of-text ids as a tuple, whichever way the config spells them."""
        if self.eos_token_id is None:
            return ()
        return self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)

    @property
    def special_token_ids(self) -> tuple[int, ...]:
        """Every special id that the config names."""
        singles = (self.bos_token_id, self.pad_token_id)
        return self.eos_token_ids + tuple(token_id for token_id in singles if token_id is not None)

    @property
    def is_standard_llama(self) -> bool:
        """Whether transformers' LlamaForCausalLM computes the same function from the same weights."""
        return not (self.rope_interleaved or self.learned_position_embeddings)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Read a `config.json` (Hugging Face's, or nanotron's with `model.model_config`).

        Raises:
            ConfigError: a key is missing, unknown, or has a value that we cannot honour; the message names it.
        """
        values = _flatten_nanotron(values)
        _check_architecture(values)
        _refuse_unsupported(values)
        missing = sorted(_REQUIRED_KEYS - {key for key, value in values.items() if value is not None})
        if missing:
            raise ConfigError(f"config lacks {', '.join(missing)}")
        fields = {name: values[name] for name in _FIELDS if values.get(name) is not None}
        fields["rope_theta"] = _rope_theta(values)
        fields.setdefault("tie_word_embeddings", False)  # transformers' default where the key is absent
        if isinstance(fields.get("eos_token_id"), list):
            fields["eos_token_id"] = tuple(fields["eos_token_id"])
        fields.setdefault("num_key_value_heads", fields["num_attention_heads"])
        if "head_dim" not in fields:
            fields["head_dim"] = _derived_head_dim(fields["hidden_size"], fields["num_attention_heads"])
        return cls(**fields)

    @classmethod
    def from_file(cls, path: str | Path) -> ModelConfig:
        """Read a config file. Raises ConfigError, naming the file, where it is absent, not JSON, or not a config."""
        path = Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{path} does not exist") from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} is not readable JSON: {error}") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{path} holds a JSON {type(values).__name__}, not a config object")
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def from_preset(cls, name: str) -> ModelConfig:
        """Read a preset by name (`preset_names()` lists them)."""
        if name not in preset_names():
            raise ConfigError(f"no preset {name!r}; there are {', '.join(preset_names())}")
        return cls.from_file(PRESETS_FOLDER / f"{name}.json")

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some fields changed, checked anew."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The `config.json` that transformers reads, RoPE settings in both the old and the new spelling."""
        standard = self.is_standard_llama
        values: dict[str, Any] = {
            "architectures": ["LlamaForCausalLM" if standard else "SmolTextGenForCausalLM"],
            "model_type": STANDARD_MODEL_TYPE if standard else VARIANT_MODEL_TYPE,
            "hidden_act": "silu",
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "torch_dtype": "float32",
        }
        values |= dataclasses.asdict(self)
        if isinstance(self.eos_token_id, tuple):
            values["eos_token_id"] = list(self.eos_token_id)
        if standard:  # transformers knows neither key: a standard file does not carry them
            del values["rope_interleaved"], values["learned_position_embeddings"]
        return {key: value for key, value in values.items() if value is not None}


_FIELDS = tuple(field.name for field in dataclasses.fields(ModelConfig))
_SIZE_FIELDS = tuple(field.name for field in dataclasses.fields(ModelConfig) if field.type == "int")
_REQUIRED_KEYS = frozenset(_SIZE_FIELDS) - {"num_key_value_heads", "head_dim"}
_KNOWN_KEYS = frozenset(_FIELDS) | INERT_KEYS | FIXED_VALUES.keys() | {"rope_parameters"}


def preset_names() -> list[str]:
    """The names that `ModelConfig.from_preset` takes."""
    return sorted(path.stem for path in PRESETS_FOLDER.glob("*.json"))


def _check_field(field: dataclasses.Field[Any], value: Any) -> None:
    """Sizes are positive integers, flags booleans, the rest of the numbers positive and finite."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if field.type == "int" and not (is_number and isinstance(value, int) and value > 0):
        raise ConfigError(f"{field.name} must be a positive integer, not {value!r}")
    if field.type == "float" and not (is_number and 0 < value < float("inf")):
        raise ConfigError(f"{field.name} must be a positive number, not {value!r}")
    if field.type == "bool" and not isinstance(value, bool):
        raise ConfigError(f"{field.name} must be true or false, not {value!r}")


def _flatten_nanotron(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Nanotron's training file keeps the model under `model.model_config` and its init std beside it."""
    section = values.get("model")
    if not isinstance(section, Mapping) or "model_config" not in section:
        return values
    if not isinstance(section["model_config"], Mapping):
        raise ConfigError("model.model_config must be an object")
    init_method = section.get("init_method") or {}
    initializer = {"initializer_range": init_method["std"]} if "std" in init_method else {}
    return {**section["model_config"], **initializer}


def _check_architecture(values: Mapping[str, Any]) -> None:
    model_type = values.get("model_type", STANDARD_MODEL_TYPE)
    if model_type not in (STANDARD_MODEL_TYPE, VARIANT_MODEL_TYPE):
        raise ConfigError(
            f"model_type {model_type!r} is another architecture; "
            f"SmolText knows {STANDARD_MODEL_TYPE!r} and {VARIANT_MODEL_TYPE!r}"
        )


def _refuse_unsupported(values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if key in FIXED_VALUES and value not in FIXED_VALUES[key]:
            allowed = " or ".join(json.dumps(choice) for choice in FIXED_VALUES[key])
            raise ConfigError(f"{key} = {json.dumps(value)} is not supported: it must be {allowed}")
        if key not in _KNOWN_KEYS and value not in (None, False):
            nearest = difflib.get_close_matches(key, _KNOWN_KEYS, n=1)
            hint = f" (did you mean {nearest[0]}?)" if nearest else ""
            raise ConfigError(
                f"unknown key {key!r}{hint}: SmolText cannot tell whether it changes the computation; "
                "remove it from the config if it does not"
            )


def _rope_theta(values: Mapping[str, Any]) -> float:
    """The RoPE base from either spelling: top-level `rope_theta`, or transformers 5's `rope_parameters`.

    A reader of one spelling alone would silently use 10000 for the other, so disagreement is an error.
    """
    top_level = values.get("rope_theta")
    parameters = values.get("rope_parameters") or {}
    if not isinstance(parameters, Mapping):
        raise ConfigError("rope_parameters must be an object")
    unknown = sorted(set(parameters) - {"rope_type", "rope_theta", "type", "partial_rotary_factor"})
    rope_type = parameters.get("rope_type", parameters.get("type", "default"))
    if rope_type != "default":
        raise ConfigError(f"rope_type {rope_type!r} is not supported: only 'default' (plain RoPE) is")
    if parameters.get("partial_rotary_factor", 1) != 1 or unknown:
        raise ConfigError(f"rope_parameters {json.dumps(dict(parameters))} ask for more than plain RoPE")
    nested = parameters.get("rope_theta")
    if top_level is not None and nested is not None and float(top_level) != float(nested):
        raise ConfigError(f"rope_theta {top_level} and rope_parameters.rope_theta {nested} disagree; keep one")
    theta = top_level if top_level is not None else nested
    return 10000.0 if theta is None else float(theta)


def _derived_head_dim(hidden_size: Any, num_attention_heads: Any) -> int:
    if not (isinstance(hidden_size, int) and isinstance(num_attention_heads, int) and num_attention_heads > 0):
        raise ConfigError("hidden_size and num_attention_heads must be positive integers")
    if hidden_size % num_attention_heads:
        raise ConfigError(
            f"hidden_size ({hidden_size}) is not a multiple of num_attention_heads ({num_attention_heads}) "
            "and the config gives no head_dim"
        )
    return hidden_size // num_attention_heads
