"""From what a user typed to a local checkpoint folder: a path as it is, a Hub id by downloading it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from model.errors import CheckpointError, CheckpointNotFoundError
from runtime.hub import FolderKind, download, local_folder

CHECKPOINT = FolderKind("checkpoint", "config.json and model.safetensors", CheckpointError, CheckpointNotFoundError)
# Weights, configs and tokenizer files; never pickles.
DOWNLOADED = ("*.safetensors", "*.safetensors.index.json", "*.json", "chat_template.jinja")


def resolve_checkpoint(name: str | Path, revision: str | None = None, *, files: Sequence[str] = DOWNLOADED) -> Path:
    """The local folder of a checkpoint.

    Args:
        name: a folder, or a Hub id such as `HuggingFaceTB/SmolLM2-135M`. A folder goes before a Hub id.
        revision: branch, tag or commit of a Hub id.
        files: patterns of those to download.

    Raises:
        CheckpointNotFoundError: neither a folder nor a Hub repository.
        CheckpointError: no access, no such revision, or the Hub cannot be reached.
        MissingDependencyError: huggingface_hub is not installed.
    """
    return local_folder(name, CHECKPOINT) or download(str(name), CHECKPOINT, files=files, revision=revision)
