"""From a folder or Hub id to the kind of weights that lies there, and to a model."""

from __future__ import annotations

from pathlib import Path

import torch

from model.adapter import MergedAdapter, is_adapter
from model.checkpoint import Checkpoint
from model.hub import resolve_checkpoint
from model.transformer import TransformerModel
from model.weights import build_model


def open_checkpoint(folder: str | Path, *, revision: str | None = None) -> Checkpoint | MergedAdapter:
    """A checkpoint by its folder or Hub id; a LoRA adapter's comes merged with its base.

    Raises:
        CheckpointError, CheckpointNotFoundError, ConfigError: as `Checkpoint` and `MergedAdapter` do.
    """
    found = resolve_checkpoint(folder, revision)
    return MergedAdapter(found) if is_adapter(found) else Checkpoint(found)


def load_checkpoint(
    folder: str | Path,
    *,
    revision: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TransformerModel:
    """A model with the weights of a checkpoint folder or Hub id, in eval mode. Raises as `open_checkpoint` does."""
    return build_model(open_checkpoint(folder, revision=revision), device=device, dtype=dtype)
