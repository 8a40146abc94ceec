"""What a model is called, for the manifest: people read it on the page, in the card and from `inspect`."""

from __future__ import annotations

from pathlib import Path

from model import ModelSource
from model.gguf import GGUFModel
from runtime.bundle import read_json

# A folder of one of these names is called after the one around it: runs/demo/checkpoint is demo.
COMMON = ("checkpoint", "final", "best", "last", "latest", "model", "merged")
MOST_CHARACTERS = 100


def model_name(checkpoint: ModelSource, source: str, base_model: str | None = None) -> str:
    """The name: of its Hub id, or else what the model calls itself, or else of its folder or file.

    Args:
        checkpoint: a GGUF file calls itself by `general.name`, a folder by `_name_or_path` of its config.json.
        source: how the user named it.
        base_model: its Hub id if it came from there.
    """
    if base_model is not None:
        return _last(base_model)
    path = Path(source).resolve()
    if isinstance(checkpoint, GGUFModel):
        own = checkpoint.own_name
        return own[:MOST_CHARACTERS] if own else path.stem
    own = _own_name(checkpoint.folder)
    if own:
        return own[:MOST_CHARACTERS]
    return path.parent.name if path.name in COMMON and path.parent.name else path.name


def _own_name(folder: Path) -> str:
    config = folder / "config.json"
    own = read_json(config).get("_name_or_path") if config.is_file() else None
    return _last(own) if isinstance(own, str) else ""


def _last(path: str) -> str:
    """The last part of an id or a path, of either kind of machine; empty where it says nothing."""
    name = path.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return "" if name in (".", "..", *COMMON) else name
