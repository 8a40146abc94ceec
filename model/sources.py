"""From a folder, GGUF file or Hub id to the kind of weights that lies there, and to a model."""

from __future__ import annotations

from pathlib import Path

import torch

from model.adapter import MergedAdapter, is_adapter
from model.checkpoint import Checkpoint
from model.errors import CheckpointError
from model.gguf import GGUFModel, is_gguf
from model.hub import resolve_checkpoint
from model.transformer import TransformerModel
from model.weights import ModelSource, build_model


def open_checkpoint(
    name: str | Path, *, revision: str | None = None, tokenizer: str | Path | None = None
) -> Checkpoint | MergedAdapter | GGUFModel:
    """A checkpoint by its folder, GGUF file or Hub id; a LoRA adapter's comes merged with its base.

    Args:
        name: the folder, file or id.
        revision: branch, tag or commit of a Hub id.
        tokenizer: a folder whose tokenizer is taken instead of a GGUF file's own.

    Raises:
        CheckpointError, CheckpointNotFoundError, ConfigError: as `Checkpoint`, `MergedAdapter` and `GGUFModel` do.
    """
    if is_gguf(name):
        return GGUFModel(Path(name), tokenizer=None if tokenizer is None else Path(tokenizer))
    if tokenizer is not None:
        raise CheckpointError(f"--tokenizer is for a GGUF file; {name} has its tokenizer in its folder")
    found = resolve_checkpoint(name, revision)
    return MergedAdapter(found) if is_adapter(found) else Checkpoint(found)


def tokenizer_folder(source: ModelSource) -> Path:
    """Where the tokenizer of a model lies: an adapter may have its base's. The model's own folder if there is none."""
    return next((path.parent for path in source.side_files() if path.name == "tokenizer.json"), source.folder)


def load_checkpoint(
    name: str | Path,
    *,
    revision: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TransformerModel:
    """A model with the weights of a folder, GGUF file or Hub id, in eval mode. Raises as `open_checkpoint` does."""
    return build_model(open_checkpoint(name, revision=revision), device=device, dtype=dtype)
