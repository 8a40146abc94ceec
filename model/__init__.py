"""The model in PyTorch: its config, its modules, its checkpoint folder.

Knows no ONNX, no training and no command line. `from model import TransformerModel, ModelConfig, load_checkpoint`.
"""

from model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.config import ModelConfig, preset_names
from model.errors import CheckpointError, CheckpointNotFoundError, ConfigError, ModelError
from model.transformer import KVCache, TransformerModel

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointNotFoundError",
    "ConfigError",
    "KVCache",
    "ModelConfig",
    "ModelError",
    "TransformerModel",
    "load_checkpoint",
    "preset_names",
    "save_checkpoint",
]
