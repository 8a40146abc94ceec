"""ModelConfig: the shape of a decoder of the LLaMA family, read from and written to `config.json`.

Two spellings are read: Hugging Face's `config.json` and the nanotron-style training file that nests the same keys
under `model.model_config`. A key that changes the computation in a way that is not implemented is an error with its
name. Any other unknown key is carried along, and named on stderr when a file is read.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.config_keys import CONSUMED_KEYS, FIXED_VALUES, INERT_KEYS, flatten_nanotron, refuse_unsupported
from model.errors import ConfigError
from model.family import (
    COMMON_DEFAULTS,
    FULL,
    SWITCHES,
    architecture_for,
    architecture_of,
    read_switches,
    write_switches,
)
from model.files import read_object
from model.rope import RopeScaling, read_rope

PRESETS_FOLDER = Path(__file__).parent / "presets"

_TOKEN_ID_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a model, under the names of Hugging Face's configs.

    Attributes:
        max_position_embeddings: the context in tokens that the model can use, after any scaling of RoPE.
        rope_scaling: how RoPE's frequencies are scaled for a context longer than the trained one; None for plain RoPE.
        qkv_bias: biases on queries, keys and values alone (Qwen2); `attention_bias` has one on the output too.
        qk_norm: RMSNorm of each head's queries and keys before the rotation (Qwen3).
        no_rope_layers: 1 for each layer with RoPE and 0 for each without (SmolLM3); None where all layers have it.
        sliding_window: the number of tokens that a token sees, itself included (Mistral); None for no limit.
        layer_types: `full_attention` or `sliding_attention` a layer; None where `sliding_window` holds for all.
        carried: other keys of `config.json`, which change nothing here; all but switches are written back.

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
    rope_scaling: RopeScaling | None = None
    rope_interleaved: bool = False
    learned_position_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    no_rope_layers: tuple[int, ...] | None = None
    sliding_window: int | None = None
    layer_types: tuple[str, ...] | None = None
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    carried: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for declared in dataclasses.fields(self):
            _check_field(declared, getattr(self, declared.name))
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim must be even for rotary embeddings, not {self.head_dim}")
        self._check_switches()
        for name in _TOKEN_ID_KEYS:
            ids = self.eos_token_ids if name == "eos_token_id" else (getattr(self, name),)
            for token_id in ids:
                if token_id is not None and not (isinstance(token_id, int) and 0 <= token_id < self.vocab_size):
                    raise ConfigError(f"{name} {token_id!r} is outside the vocabulary of {self.vocab_size} tokens")

    def _check_switches(self) -> None:
        if self.sliding_window is not None and not (isinstance(self.sliding_window, int) and self.sliding_window > 0):
            raise ConfigError(f"sliding_window must be a positive number of tokens, not {self.sliding_window!r}")
        if not isinstance(self.rope_scaling, RopeScaling | None):
            raise ConfigError(f"rope_scaling must be a RopeScaling, not {self.rope_scaling!r}")
        if self.has_dynamic_rope and self.head_dim < 4:
            raise ConfigError(f"rope_type 'dynamic' needs a head_dim of at least 4, not {self.head_dim}")
        for name in ("no_rope_layers", "layer_types"):
            listed = getattr(self, name)
            if listed is not None and len(listed) != self.num_hidden_layers:
                raise ConfigError(f"{name} lists {len(listed)} layers, and the model has {self.num_hidden_layers}")
        if self.rope_scaling is not None and self.learned_position_embeddings:
            raise ConfigError("rope_scaling cannot stretch learned_position_embeddings: a model has one of the two")

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The end-of-text ids as a tuple, whichever way the config spells them."""
        if self.eos_token_id is None:
            return ()
        return self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)

    @property
    def has_qkv_bias(self) -> bool:
        """Whether the projections of queries, keys and values have biases."""
        return self.attention_bias or self.qkv_bias

    @property
    def has_dynamic_rope(self) -> bool:
        """Whether RoPE's frequencies depend on the length of the text."""
        return self.rope_scaling is not None and self.rope_scaling.rope_type == "dynamic"

    @property
    def rope_attention_factor(self) -> float:
        """By what RoPE's cosines and sines are multiplied."""
        return 1.0 if self.rope_scaling is None else self.rope_scaling.attention_factor

    def has_rope(self, layer: int) -> bool:
        """Whether a layer rotates its queries and keys."""
        return self.no_rope_layers is None or bool(self.no_rope_layers[layer])

    def window(self, layer: int) -> int | None:
        """The sliding window of a layer in tokens; None where it sees all earlier ones."""
        if self.layer_types is not None and self.layer_types[layer] == FULL:
            return None
        return self.sliding_window

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Read a `config.json` (Hugging Face's, or nanotron's with `model.model_config`).

        Raises:
            ConfigError: a key is missing, or has a value that is not implemented; the message names it.
        """
        values = flatten_nanotron(values)
        architecture = architecture_of(values)
        refuse_unsupported(values)
        values = {**architecture.defaults, **values}
        missing = sorted(_REQUIRED_KEYS - {key for key, value in values.items() if value is not None})
        if missing:
            raise ConfigError(f"config lacks {', '.join(missing)}")
        for declared in dataclasses.fields(cls):
            if declared.name in _REQUIRED_KEYS:
                _check_field(declared, values[declared.name])
        fields = COMMON_DEFAULTS | {name: values[name] for name in _PLAIN_FIELDS if values.get(name) is not None}
        theta, scaling = read_rope(values, architecture.rope_theta)
        fields |= {"rope_theta": theta, "rope_scaling": scaling} | read_switches(architecture, values)
        if scaling is not None:
            fields["max_position_embeddings"] = max(values["max_position_embeddings"], scaling.reach)
        fields |= _token_ids(values)
        fields.setdefault("num_key_value_heads", fields["num_attention_heads"])
        if "head_dim" not in fields:
            fields["head_dim"] = _derived_head_dim(fields["hidden_size"], fields["num_attention_heads"])
        unused = {key: value for key, value in values.items() if key not in _KNOWN_KEYS | architecture.defaults.keys()}
        unused |= {key: values[key] for key in SWITCHES if values.get(key) and key not in architecture.switches}
        return cls(**fields, carried=unused)

    @classmethod
    def from_file(cls, path: str | Path) -> ModelConfig:
        """Read a config file. Raises ConfigError, naming the file, where it is absent, not JSON, or not a config."""
        path = Path(path)
        try:
            values = read_object(path, ConfigError)
        except FileNotFoundError:
            raise ConfigError(f"{path} does not exist") from None
        try:
            config = cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        unused = [name + _hint(name) for name, value in config.carried.items() if value]
        unused += [f"{name} {value}" for name in _TOKEN_ID_KEYS if _is_negative(value := values.get(name))]
        if unused:
            _tell(f"{path}: carried along without effect: {', '.join(unused)}")
        return config

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
        architecture = architecture_for(vars(self))
        scaling = {} if self.rope_scaling is None else self.rope_scaling.to_dict()
        values: dict[str, Any] = {
            "architectures": [architecture.class_name],
            "model_type": architecture.model_type,
            "hidden_act": "silu",
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta} | scaling,
            "torch_dtype": "float32",
        }
        switches = write_switches(architecture, vars(self))
        own = {name: switches.pop(name, None) if name in SWITCHES else getattr(self, name) for name in _FIELDS}
        values |= own | switches | {"rope_scaling": scaling or None}
        if isinstance(self.eos_token_id, tuple):
            values["eos_token_id"] = list(self.eos_token_id)
        if self.rope_scaling is not None and self.rope_scaling.rope_type in ("linear", "dynamic"):
            # To transformers it is the original context, and dynamic's function depends on it.
            values["max_position_embeddings"] = self.rope_scaling.original_max_position_embeddings
        del values["carried"]
        # A switch that one architecture ignores would mean something to another.
        carried = {key: value for key, value in self.carried.items() if key not in SWITCHES}
        return {key: value for key, value in (carried | values).items() if value is not None}


_FIELDS = tuple(declared.name for declared in dataclasses.fields(ModelConfig))
_SIZE_FIELDS = tuple(declared.name for declared in dataclasses.fields(ModelConfig) if declared.type == "int")
_PLAIN_FIELDS = frozenset(_FIELDS) - SWITCHES.keys() - {"rope_theta", "rope_scaling", "carried", *_TOKEN_ID_KEYS}
_REQUIRED_KEYS = frozenset(_SIZE_FIELDS) - {"num_key_value_heads", "head_dim"}
_KNOWN_KEYS = frozenset(_FIELDS) | INERT_KEYS | FIXED_VALUES.keys() | CONSUMED_KEYS


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


def _token_ids(values: Mapping[str, Any]) -> dict[str, Any]:
    """The special tokens. A negative id is how some writers say that there is none."""
    found: dict[str, Any] = {name: values.get(name) for name in _TOKEN_ID_KEYS}
    if isinstance(found["eos_token_id"], list):
        found["eos_token_id"] = tuple(found["eos_token_id"])
    return {name: None if _is_negative(value) else value for name, value in found.items()}


def _is_negative(value: Any) -> bool:
    return isinstance(value, int) and value < 0


def _hint(name: str) -> str:
    """A known key that a name may be a misspelling of."""
    nearest = difflib.get_close_matches(name, _FIELDS, n=1, cutoff=0.85)
    return f" (did you mean {nearest[0]}?)" if nearest and name not in _FIELDS else ""


@functools.cache
def _tell(line: str) -> None:
    """One line on stderr, once a process: a command may open a checkpoint several times."""
    logging.getLogger(__name__).warning(line)


def _derived_head_dim(hidden_size: Any, num_attention_heads: Any) -> int:
    if not (isinstance(hidden_size, int) and isinstance(num_attention_heads, int) and num_attention_heads > 0):
        raise ConfigError("hidden_size and num_attention_heads must be positive integers")
    if hidden_size % num_attention_heads:
        raise ConfigError(
            f"hidden_size ({hidden_size}) is not a multiple of num_attention_heads ({num_attention_heads}) "
            "and the config gives no head_dim"
        )
    return hidden_size // num_attention_heads
