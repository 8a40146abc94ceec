"""A bundle folder: which precisions it holds, the shape of its model, its special tokens.

Reads JSON and file sizes only; opens no graph.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import BundleError, BundleNotFoundError, MissingDependencyError, OptionError
from runtime.precisions import PRECISIONS

MANIFEST = "manifest.json"
# What a manifest can list.
DOWNLOADED = ("*.json", "*.jinja", "*.md", "onnx/*")
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # not ../name, which is a path


@dataclass(frozen=True)
class ModelShape:
    """The part of `config.json` that generation needs."""

    vocab_size: int
    num_hidden_layers: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        folder: where it lies.
        shape: sizes of the model.
        precisions: precision -> its ONNX file, for those that are there.
        bos_token_id: where an empty prompt starts.
        eos_token_ids: a generation stops at any of them.
        manifest: `manifest.json`, or an empty mapping for a bundle from another exporter.
    """

    folder: Path
    shape: ModelShape
    precisions: Mapping[str, Path]
    bos_token_id: int | None
    eos_token_ids: frozenset[int]
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path_or_hub_id: str | Path, *, revision: str | None = None) -> Bundle:
        """Open a local folder or a Hub id.

        Raises:
            BundleNotFoundError: there is neither.
            BundleError: it is no bundle, or files are missing or of another size than the manifest says.
        """
        folder = _resolve(path_or_hub_id, revision)
        config = read_json(folder / "config.json", required=True)
        generation = read_json(folder / "generation_config.json")
        manifest = read_json(folder / MANIFEST)
        graphs = {name: folder / "onnx" / row.file for name, row in PRECISIONS.items()}
        precisions = {name: path for name, path in graphs.items() if path.is_file()}
        if not precisions:
            raise BundleError(f"{folder} is not a bundle: it has no onnx/*.onnx; make one with `python -m export run`")
        _check_sizes(folder, manifest)
        return cls(
            folder=folder,
            shape=_shape(folder, config),
            precisions=precisions,
            bos_token_id=next(iter(_token_ids(folder, "bos_token_id", generation, config)), None),
            eos_token_ids=frozenset(_token_ids(folder, "eos_token_id", generation, config)),
            manifest=manifest,
        )

    def model_file(self, precision: str) -> Path:
        """The ONNX file of a precision. Raises OptionError, naming those that are there."""
        if precision not in self.precisions:
            raise OptionError(f"{self.folder} has no precision {precision!r}; it has {', '.join(self.precisions)}")
        return self.precisions[precision]

    def file_bytes(self, precision: str) -> int:
        """Size of a precision's graph and of the weights beside it."""
        self.model_file(precision)
        return graph_and_weight_bytes(self.folder, precision)

    @property
    def default_precision(self) -> str:
        """The first in the order of `runtime.precisions.PRECISIONS`."""
        return next(iter(self.precisions))

    @property
    def has_in_place_cache(self) -> bool:
        """Whether the graph may write past and present into one buffer: so ours do, and say so in the manifest."""
        return bool(self.manifest.get("in_place_cache", False))


def graph_and_weight_bytes(folder: Path, precision: str) -> int:
    """Size of a precision's ONNX file, and of its weights where they lie in a file beside it (which two may share)."""
    row = PRECISIONS[precision]
    weights = (folder / "onnx").glob(f"{PRECISIONS[row.weights].file}_data*")
    return sum(path.stat().st_size for path in (folder / "onnx" / row.file, *weights))


def read_json(path: Path, *, required: bool = False) -> dict[str, Any]:
    """A JSON object from a file; empty where the file is absent and not required."""
    if not path.is_file() and not required:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path.parent} is not a bundle: it has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise BundleError(f"{path} holds a JSON {type(value).__name__}, not an object")
    return value


def _resolve(name: str | Path, revision: str | None) -> Path:
    folder = Path(name)
    try:
        if folder.is_dir():
            return folder
        is_other = folder.exists()
    except OSError as error:  # a name that no file can have
        raise BundleNotFoundError(f"there is no folder {name}: {error.strerror}") from None
    if is_other:
        raise BundleError(f"{name} is a file; a bundle is a folder with config.json and onnx/")
    if isinstance(name, Path) or not HUB_ID.fullmatch(name):
        raise BundleNotFoundError(f"there is no folder {name}; give a bundle's folder or its Hub id")
    return _download(name, revision)


def _download(name: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
    except ImportError:
        raise MissingDependencyError(
            f"there is no folder {name}; to fetch it from the Hub: pip install huggingface_hub"
        ) from None
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(DOWNLOADED)))
    except (RepositoryNotFoundError, HFValidationError):
        raise BundleNotFoundError(f"there is neither a folder nor a Hub repository {name}") from None
    except Exception as error:  # noqa: BLE001 - the library's HTTP client has classes of its own for dropped connections
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BundleError(f"there is no folder {name}, and the Hub could not be asked: {reason}") from None


def _shape(folder: Path, config: Mapping[str, Any]) -> ModelShape:
    try:
        heads = config["num_attention_heads"]
        shape = ModelShape(
            vocab_size=config["vocab_size"],
            num_hidden_layers=config["num_hidden_layers"],
            num_key_value_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            max_position_embeddings=config["max_position_embeddings"],
        )
    except KeyError as error:
        raise BundleError(f"{folder / 'config.json'} lacks {error}") from None
    except (TypeError, ZeroDivisionError):
        raise BundleError(f"{folder / 'config.json'}: hidden_size and num_attention_heads must be numbers") from None
    if not all(isinstance(size, int) and size > 0 for size in vars(shape).values()):
        raise BundleError(f"{folder / 'config.json'}: every size must be a positive integer: {shape}")
    return shape


def _token_ids(folder: Path, name: str, generation: Mapping[str, Any], config: Mapping[str, Any]) -> list[int]:
    """One id or several, as `generation_config.json` says, or else `config.json`."""
    value = config.get(name) if generation.get(name) is None else generation[name]
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token_id, int) and token_id >= 0 for token_id in ids):
        raise BundleError(f"{folder}: {name} must be a token id or a list of them, not {value!r}")
    return ids


def _check_sizes(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Finds a download that was cut off, at no cost; `python -m export inspect` compares the hashes too."""
    try:
        expected = {name: int(entry["bytes"]) for name, entry in manifest.get("files", {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise BundleError(f"{folder / MANIFEST} is broken: files must be name -> {{bytes, sha256}}") from None
    for name, size in expected.items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"{folder} is incomplete: its manifest lists {name}, which is not there")
        if path.stat().st_size != size:
            raise BundleError(
                f"{path} has {path.stat().st_size:,} bytes, the manifest says {size:,}: "
                "it was changed or cut off; export or fetch the bundle again"
            )
