"""Rotary settings of a config: the base, and how frequencies are scaled for a context longer than the trained one.

Both spellings are read: `rope_theta` with `rope_scaling`, and transformers 5's `rope_parameters`. The frequencies
themselves are computed in `model/rotary.py`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.errors import ConfigError

DEFAULT_THETA = 10000.0
# Type -> the settings that it reads beside `factor`, and must have (True) or may have (False).
_SETTINGS: dict[str, dict[str, bool]] = {
    "linear": {},
    "dynamic": {},
    "llama3": {"low_freq_factor": True, "high_freq_factor": True, "original_max_position_embeddings": False},
    "yarn": {
        "original_max_position_embeddings": False,
        "attention_factor": False,
        "beta_fast": False,
        "beta_slow": False,
        "mscale": False,
        "mscale_all_dim": False,
        "truncate": False,
    },
}
# Settings without an effect: transformers stores and ignores them too.
_INERT = {"finetuned"}
_COMMON = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How the frequencies of RoPE are scaled.

    Attributes:
        rope_type: linear (positions divided by `factor`), dynamic (a base that grows with the length, bloc97's NTK),
            llama3 (low frequencies divided by `factor`) or yarn (arXiv:2309.00071).
        factor: how much longer than the original the context is.
        original_max_position_embeddings: the context in tokens that the model was trained for before the scaling.
        low_freq_factor: llama3: wavelengths beyond original / low_freq_factor are divided by `factor`.
        high_freq_factor: llama3: wavelengths below original / high_freq_factor stay.
        attention_factor: cosines and sines are multiplied by it (yarn; 1 elsewhere).
        beta_fast: yarn: dimensions with more rotations than this over the original context stay.
        beta_slow: yarn: those with fewer than this are divided by `factor`.
        truncate: yarn: the bounds between the two are whole dimensions.
    """

    rope_type: str
    factor: float
    original_max_position_embeddings: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True

    @property
    def reach(self) -> int:
        """The context in tokens that the scaling makes of the original one; 0 for llama3, whose config states it."""
        return 0 if self.rope_type == "llama3" else int(self.original_max_position_embeddings * self.factor)

    def to_dict(self) -> dict[str, Any]:
        """The settings as `rope_parameters` spells them, without `rope_theta`."""
        names = ["rope_type", "factor", *_SETTINGS[self.rope_type]]
        return {name: value for name, value in dataclasses.asdict(self).items() if name in names}


def read_rope(values: Mapping[str, Any], default_theta: float) -> tuple[float, RopeScaling | None]:
    """The base and the scaling of a `config.json` that has `max_position_embeddings`.

    Raises:
        ConfigError: the two spellings disagree, or ask for a type or setting that is not implemented.
    """
    settings = _settings(values)
    theta = _theta(values, settings, default_theta)
    rope_type = settings.get("rope_type", settings.get("type")) or "default"
    if settings.get("partial_rotary_factor") not in (None, 1):
        raise ConfigError(f"partial_rotary_factor {settings['partial_rotary_factor']} is not supported: it must be 1")
    if rope_type != "default" and rope_type not in _SETTINGS:
        raise ConfigError(f"rope_type {rope_type!r} is not supported; there are default, {', '.join(_SETTINGS)}")
    known = {*_COMMON, *_INERT, "factor", "original_max_position_embeddings", *_SETTINGS.get(rope_type, ())}
    unknown = sorted(key for key, value in settings.items() if key not in known and value is not None)
    if unknown:
        raise ConfigError(f"{', '.join(unknown)} of rope_type {rope_type!r} is not supported: {json.dumps(settings)}")
    return theta, None if rope_type == "default" else _scaling(rope_type, settings, values)


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_parameters`, or `rope_scaling`; where a config has both they must agree."""
    found: dict[str, Any] = {}
    for spelling in ("rope_scaling", "rope_parameters"):
        settings = values.get(spelling) or {}
        if not isinstance(settings, Mapping):
            raise ConfigError(f"{spelling} must be an object, not {settings!r}")
        settings = {("rope_type" if key == "type" else key): value for key, value in settings.items()}
        for key, value in settings.items():
            if found.get(key, value) != value:
                raise ConfigError(f"rope_scaling and rope_parameters disagree about {key}; keep one of the two")
        found |= settings
    if "partial_rotary_factor" in values:
        found.setdefault("partial_rotary_factor", values["partial_rotary_factor"])
    return found


def _theta(values: Mapping[str, Any], settings: Mapping[str, Any], default: float) -> float:
    """A reader of one spelling alone would silently use the default for the other, so disagreement is an error."""
    top_level, nested = values.get("rope_theta"), settings.get("rope_theta")
    if top_level is not None and nested is not None and float(top_level) != float(nested):
        raise ConfigError(f"rope_theta {top_level} and rope_parameters.rope_theta {nested} disagree; keep one")
    theta = top_level if top_level is not None else nested
    return default if theta is None else float(theta)


def _scaling(rope_type: str, settings: Mapping[str, Any], values: Mapping[str, Any]) -> RopeScaling:
    context = values["max_position_embeddings"]
    original = values.get("original_max_position_embeddings") or settings.get("original_max_position_embeddings")
    if original is None or rope_type in ("linear", "dynamic"):
        original = context  # transformers' rule: these two know no other original
    factor = settings.get("factor")
    if factor is None and rope_type == "yarn":
        factor = context / original
    fields = {"factor": factor, "original_max_position_embeddings": original}
    for name, is_required in _SETTINGS[rope_type].items():
        if is_required and settings.get(name) is None:
            raise ConfigError(f"rope_type {rope_type!r} needs {name}")
        if settings.get(name) is not None and name not in ("mscale", "mscale_all_dim"):
            fields.setdefault(name, settings[name])
    for name, value in fields.items():
        if name != "truncate" and not (_is_number(value) and 0 < value < math.inf):
            raise ConfigError(f"{name} of rope_type {rope_type!r} must be a positive number, not {value!r}")
    if rope_type == "yarn" and "attention_factor" not in fields:
        fields["attention_factor"] = _yarn_attention_factor(factor, settings)
    return RopeScaling(rope_type=rope_type, **fields)


def _yarn_attention_factor(factor: float, settings: Mapping[str, Any]) -> float:
    """0.1 ln(factor) + 1 (arXiv:2309.00071, equation 22), or DeepSeek's quotient of two such terms."""
    mscale, mscale_all_dim = settings.get("mscale"), settings.get("mscale_all_dim")

    def term(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    return term(mscale) / term(mscale_all_dim) if mscale and mscale_all_dim else term(1.0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
