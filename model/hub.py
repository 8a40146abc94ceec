"""From what a user typed to a local checkpoint folder: a path as it is, a Hub id by downloading what is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from model.errors import CheckpointError, CheckpointNotFoundError
from model.weight_files import INDEX_FILE, PYTORCH_FILE, PYTORCH_INDEX_FILE, WEIGHTS_FILE, shard_names
from runtime.hub import FolderKind, download, local_folder

CHECKPOINT = FolderKind("checkpoint", "config.json and model.safetensors", CheckpointError, CheckpointNotFoundError)
SMALL_FILES = ("*.json", "chat_template.jinja", "tokenizer.model")
BESIDE_WEIGHTS = ("config.json", "adapter_config.json", "additional_chat_templates/*.jinja")
ADAPTER_FILE = "adapter_model.safetensors"


def resolve_checkpoint(name: str | Path, revision: str | None = None, *, files: Sequence[str] | None = None) -> Path:
    """The local folder of a checkpoint.

    Of a Hub repository one form of the weights is downloaded, that which `WeightFiles` reads: a repository may have
    them a second time under other names, or as PyTorch's files beside safetensors.

    Args:
        name: a folder, or a Hub id such as `HuggingFaceTB/SmolLM2-135M`. A folder goes before a Hub id.
        revision: branch, tag or commit of a Hub id.
        files: patterns of those to download; None for config, tokenizer and weights.

    Raises:
        CheckpointNotFoundError: neither a folder nor a Hub repository.
        CheckpointError: no access, no such revision, the Hub cannot be reached, or an index of weights is broken.
        MissingDependencyError: huggingface_hub is not installed.
    """
    folder = local_folder(name, CHECKPOINT)
    if folder is not None:
        return folder
    folder = download(str(name), CHECKPOINT, files=files or SMALL_FILES, revision=revision)
    return folder if files else _with_weights(str(name), folder)


def _with_weights(repo: str, folder: Path) -> Path:
    """The folder of a commit, with its weights downloaded. What a repository lacks is missed where it is read."""
    for whole, index in ((WEIGHTS_FILE, INDEX_FILE), (PYTORCH_FILE, PYTORCH_INDEX_FILE)):
        names = shard_names(folder / index) if (folder / index).is_file() else [whole, ADAPTER_FILE]
        # With the configs, of which there is one: where no file matches, the library warns.
        download(repo, CHECKPOINT, files=[*names, *BESIDE_WEIGHTS], revision=folder.name)
        if any((folder / name).is_file() for name in names):
            break
    return folder
