"""The model in PyTorch: its config, its modules, its checkpoint folder.

Training, ONNX and command lines are other packages. `from model import TransformerModel, ModelConfig, load_checkpoint`.

Names are loaded when they are first asked for, so what needs no tensors (configs, errors, file helpers) works where
torch is not installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.attention import KVCache
    from model.checkpoint import Checkpoint, save_checkpoint
    from model.config import ModelConfig, preset_names
    from model.errors import CheckpointError, CheckpointNotFoundError, ConfigError, ModelError
    from model.sources import load_checkpoint, open_checkpoint
    from model.transformer import TransformerModel
    from model.weights import ModelSource, WeightSource, build_model

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointNotFoundError",
    "ConfigError",
    "KVCache",
    "ModelConfig",
    "ModelError",
    "ModelSource",
    "TransformerModel",
    "WeightSource",
    "build_model",
    "load_checkpoint",
    "open_checkpoint",
    "preset_names",
    "save_checkpoint",
]

_HOMES = {
    "checkpoint": ("Checkpoint", "save_checkpoint"),
    "config": ("ModelConfig", "preset_names"),
    "errors": ("CheckpointError", "CheckpointNotFoundError", "ConfigError", "ModelError"),
    "attention": ("KVCache",),
    "sources": ("load_checkpoint", "open_checkpoint"),
    "transformer": ("TransformerModel",),
    "weights": ("ModelSource", "WeightSource", "build_model"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
