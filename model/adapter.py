"""A LoRA adapter in peft's layout, merged with its base as its tensors are read (arXiv:2106.09685).

A merged matrix is `W + scale * B A` with `scale = lora_alpha / r`, or `lora_alpha / sqrt(r)` with rsLoRA.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.checkpoint import SIDE_FILES, Checkpoint
from model.errors import CheckpointError
from model.files import read_object
from model.hub import ADAPTER_FILE
from model.weight_files import has_weights

CONFIG_FILE = "adapter_config.json"
PREFIX = "base_model.model."
DEFAULT_ALPHA = 8  # peft's
# Settings that change what an adapter computes, each with the values at which it does not.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "alpha_pattern": ({}, None),
    "use_qalora": (False, None),
    "lora_bias": (False, None),
}


class MergedAdapter:
    """A `ModelSource`: a base checkpoint with a LoRA adapter added.

    Args:
        folder: holds adapter_config.json, which names the base (a folder or a Hub id), and adapter_model.safetensors.

    Raises:
        CheckpointError: files that are absent or broken, an adapter of another kind, or one that does not fit its base.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        settings = _read_settings(folder / CONFIG_FILE)
        self._base = Checkpoint(_base_of(folder, settings))
        self.config, self.shapes = self._base.config, self._base.shapes
        self._tensors = _read_tensors(folder / ADAPTER_FILE)
        self._alpha = float(settings.get("lora_alpha", DEFAULT_ALPHA))
        self._has_root_scale = bool(settings.get("use_rslora"))
        self._check_fit()

    def tensor(self, name: str) -> Tensor:
        """`WeightSource.tensor`, merged in float32."""
        replaced = self._tensors.get(name)
        tensor = self._base.tensor(name) if replaced is None else replaced.float()
        down, up = (self._tensors.get(part) for part in _factors(name))
        if down is not None and up is not None:
            rank = down.shape[0]
            scale = self._alpha / (math.sqrt(rank) if self._has_root_scale else rank)
            tensor = tensor + scale * (up.float() @ down.float())
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{self.folder}: {name} holds numbers that are NaN or infinite: it is broken")
        return tensor

    def side_files(self) -> Iterator[Path]:
        """The adapter's own, and the base's where it has none of that name."""
        found = {path.name: path for path in self._base.side_files()}
        found |= {name: self.folder / name for name in SIDE_FILES if (self.folder / name).is_file()}
        return iter(found.values())

    def _check_fit(self) -> None:
        """Every tensor of the adapter has its place in the base, in its shape."""
        fitting: dict[str, tuple[int, ...]] = {}
        for name, shape in self.shapes.items():
            down, up = _factors(name)
            if len(shape) == 2 and down in self._tensors:
                rank = self._tensors[down].shape[0]
                fitting |= {down: (rank, shape[1]), up: (shape[0], rank)}
            fitting[name] = shape
        for name, tensor in self._tensors.items():
            if fitting.get(name) != tuple(tensor.shape):
                raise CheckpointError(
                    f"{self.folder}: {name} {list(tensor.shape)} has no place in the base {self._base.folder}; "
                    "merge the adapter where it was made"
                )


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model of its own; some trainers store the base's config beside it."""
    return (folder / CONFIG_FILE).is_file() and not has_weights(folder)


def _factors(name: str) -> tuple[str, str]:
    """The names of A and B of a matrix."""
    stem = name.removesuffix(".weight")
    return f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"


def _read_settings(path: Path) -> Mapping[str, Any]:
    settings = read_object(path, CheckpointError)
    for name, neutral in _NEUTRAL.items():
        if settings.get(name, neutral[0]) not in neutral:
            raise CheckpointError(
                f"{path}: {name} = {json.dumps(settings[name])} cannot be merged here; use peft's merge"
            )
    return settings


def _base_of(folder: Path, settings: Mapping[str, Any]) -> str | Path:
    base = settings.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CheckpointError(f"{folder / CONFIG_FILE} names no base_model_name_or_path to merge the adapter with")
    beside = folder / base
    return beside if not Path(base).is_dir() and beside.is_dir() else base


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} is a LoRA adapter without {path.name}") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is cut off or not a safetensors file ({error}); fetch it again") from None
    # A bias that is trained is stored under the layer that peft has wrapped.
    return {name.removeprefix(PREFIX).replace(".base_layer.", "."): tensor for name, tensor in tensors.items()}
