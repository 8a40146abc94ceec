"""From what a user typed to a local checkpoint folder: a path as it is, a Hub id by downloading it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from model.errors import CheckpointError, CheckpointNotFoundError

# Weights, configs and tokenizer files; never pickles.
DOWNLOADED = ("*.safetensors", "*.safetensors.index.json", "*.json", "chat_template.jinja")
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # not ../name, which is a path


def resolve_checkpoint(name: str | Path, revision: str | None = None, *, files: Sequence[str] = DOWNLOADED) -> Path:
    """The local folder of a checkpoint.

    Args:
        name: a folder, or a Hub id such as `HuggingFaceTB/SmolLM2-135M`. A folder that exists wins.
        revision: branch, tag or commit of a Hub id.
        files: patterns of those that are downloaded.

    Raises:
        CheckpointNotFoundError: neither a folder nor a Hub repository.
        CheckpointError: the Hub cannot be reached, or huggingface_hub is not installed.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{name} is a file; a checkpoint is a folder with config.json and model.safetensors")
    if isinstance(name, Path) or not HUB_ID.fullmatch(name):
        raise CheckpointNotFoundError(f"there is no folder {name}; give a checkpoint's folder or its Hub id")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
    except ImportError:
        raise CheckpointError(f"there is no folder {name}; for the Hub: pip install huggingface_hub") from None
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except (RepositoryNotFoundError, HFValidationError):
        raise CheckpointNotFoundError(f"there is neither a folder nor a Hub repository {name}") from None
    except Exception as error:  # noqa: BLE001 - the library's HTTP client has classes of its own for dropped connections
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"there is no folder {name}, and the Hub could not be asked: {reason}") from None
