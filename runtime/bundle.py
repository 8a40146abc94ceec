"""A bundle folder: its precisions, the shape of its model, its special tokens, its sampling defaults.

Reads JSON and file sizes only; opens no graph. Of a bundle on the Hub, the small files are downloaded when it is opened
and each graph when it is first asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.errors import BundleError, BundleNotFoundError, OptionError
from runtime.generation_config import FILE as GENERATION_CONFIG
from runtime.generation_config import generation_defaults, special_token_ids
from runtime.hub import FolderKind, download, local_folder, remote_sizes
from runtime.precisions import PRECISIONS

MANIFEST = "manifest.json"
GRAPHS = "onnx"
BUNDLE = FolderKind("bundle", "config.json and onnx/", BundleError, BundleNotFoundError)
# What a manifest can list beside the graphs.
SMALL_FILES = ("*.json", "*.jinja", "*.md")


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
        precisions: precision -> its ONNX file, for those that the bundle has. `model_file` also downloads it.
        bos_token_id: where an empty prompt starts.
        eos_token_ids: a generation stops at any of them.
        generation_defaults: options of SamplingOptions that `generation_config.json` sets.
        manifest: `manifest.json`, or an empty mapping for a bundle from another exporter.
        repo: the Hub id that graphs are downloaded from, at the commit that names the folder; None for a local bundle.
        remote_bytes: of the files in the repository's `onnx/`, by name.
    """

    folder: Path
    shape: ModelShape
    precisions: Mapping[str, Path]
    bos_token_id: int | None
    eos_token_ids: frozenset[int]
    generation_defaults: Mapping[str, Any]
    manifest: Mapping[str, Any]
    repo: str | None = None
    remote_bytes: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        """The folder and the precisions, which is what tells bundles apart."""
        return f"Bundle({str(self.folder)!r}, precisions={list(self.precisions)})"

    @classmethod
    def open(cls, path_or_hub_id: str | Path, *, revision: str | None = None) -> Bundle:
        """Open a local folder or a Hub id.

        Raises:
            BundleNotFoundError: there is neither.
            BundleError: it is not a bundle, files are missing or of another size than the manifest says, a special
                token is beyond the vocabulary, or the Hub denies access.
        """
        folder, repo = local_folder(path_or_hub_id, BUNDLE), None
        if folder is None:
            repo = str(path_or_hub_id)
            folder = download(repo, BUNDLE, files=SMALL_FILES, revision=revision)
        config = read_json(folder / "config.json", required=True)
        generation = read_json(folder / GENERATION_CONFIG)
        manifest = read_json(folder / MANIFEST)
        sizes = _sizes(folder, manifest)
        remote = {} if repo is None else _remote_bytes(repo, folder, sizes)
        graphs = {name: folder / GRAPHS / row.file for name, row in PRECISIONS.items()}
        precisions = {
            name: path for name, path in graphs.items() if path.is_file() or f"{GRAPHS}/{path.name}" in remote
        }
        if not precisions:
            raise BundleError(
                f"{repo or folder} is not a bundle: it has no onnx/*.onnx; make one with `python -m export run`"
            )
        _check_sizes(folder, {name: size for name, size in sizes.items() if name not in remote})
        shape = _shape(folder, config)
        return cls(
            folder=folder,
            shape=shape,
            precisions=precisions,
            bos_token_id=next(iter(special_token_ids("bos_token_id", generation, config, shape.vocab_size)), None),
            eos_token_ids=frozenset(special_token_ids("eos_token_id", generation, config, shape.vocab_size)),
            generation_defaults=generation_defaults(generation),
            manifest=manifest,
            repo=repo,
            remote_bytes=remote,
        )

    def model_file(self, precision: str) -> Path:
        """The ONNX file of a precision, downloaded first where the bundle is on the Hub.

        Raises:
            OptionError: the bundle lacks the precision; it names those that it has.
            BundleError: the download fails.
        """
        self._check_precision(precision)
        if self.repo is not None:
            names = self._remote_files(precision)
            # Of files in the cache this costs a few milliseconds, and no request.
            download(self.repo, BUNDLE, files=names, revision=self.folder.name)
            _check_sizes(self.folder, {name: self.remote_bytes[name] for name in names})
        return self.precisions[precision]

    def file_bytes(self, precision: str) -> int:
        """Size of a precision's graph and of the weights beside it. Raises OptionError as `model_file` does."""
        self._check_precision(precision)
        if self.repo is not None:
            return sum(self.remote_bytes[name] for name in self._remote_files(precision))
        return graph_and_weight_bytes(self.folder, precision)

    @property
    def default_precision(self) -> str:
        """The first in the order of `runtime.precisions.PRECISIONS`."""
        return next(iter(self.precisions))

    @property
    def has_in_place_cache(self) -> bool:
        """Whether the graph may write past and present into one buffer: so ours do, and say so in the manifest."""
        return bool(self.manifest.get("in_place_cache", False))

    def _check_precision(self, precision: str) -> None:
        if precision not in self.precisions:
            where = self.repo or self.folder
            raise OptionError(f"{where} has no precision {precision!r}; it has {', '.join(self.precisions)}")

    def _remote_files(self, precision: str) -> list[str]:
        """Names in the repository of a precision's graph and of the weights beside it."""
        row = PRECISIONS[precision]
        weights = f"{GRAPHS}/{PRECISIONS[row.weights].file}_data"
        return [name for name in self.remote_bytes if name == f"{GRAPHS}/{row.file}" or name.startswith(weights)]


def graph_and_weight_bytes(folder: Path, precision: str) -> int:
    """Size of a precision's ONNX file, and of its weights where they lie in a file beside it (which two may share)."""
    row = PRECISIONS[precision]
    weights = (folder / GRAPHS).glob(f"{PRECISIONS[row.weights].file}_data*")
    return sum(path.stat().st_size for path in (folder / GRAPHS / row.file, *weights))


def read_json(path: Path, *, required: bool = False) -> dict[str, Any]:
    """A JSON object from a UTF-8 file, with or without a byte order mark.

    Returns:
        The object; an empty one where the file is absent and not required.

    Raises:
        BundleError: absent and required, not JSON, nested too deeply to be read, or not an object.
    """
    if not path.is_file() and not required:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise BundleError(f"{path.parent} is not a bundle: it has no {path.name}") from None
    except RecursionError:
        raise BundleError(f"{path} is not readable JSON: it is nested too deeply") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise BundleError(f"{path} holds a JSON {type(value).__name__}, not an object")
    return value


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


def _remote_bytes(repo: str, folder: Path, sizes: Mapping[str, int]) -> dict[str, int]:
    """The files in a repository's `onnx/`: as its manifest lists them, or else as the Hub does."""
    listed = {name: size for name, size in sizes.items() if name.startswith(f"{GRAPHS}/")}
    if listed:
        return listed
    try:
        return remote_sizes(repo, BUNDLE, revision=folder.name, folder=GRAPHS)
    except BundleError:  # no connection: what was downloaded before can still be used
        cached = {f"{GRAPHS}/{path.name}": path.stat().st_size for path in (folder / GRAPHS).glob("*")}
        if not cached:
            raise
        return cached


def _sizes(folder: Path, manifest: Mapping[str, Any]) -> dict[str, int]:
    """The manifest's files: name -> bytes."""
    try:
        return {name: int(entry["bytes"]) for name, entry in manifest.get("files", {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise BundleError(f"{folder / MANIFEST} is broken: files must be name -> {{bytes, sha256}}") from None


def _check_sizes(folder: Path, expected: Mapping[str, int]) -> None:
    """Finds a download that was cut off, at no cost; `python -m export inspect` compares the hashes too."""
    for name, size in expected.items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"{folder} is incomplete: its manifest lists {name}, which is not there")
        if path.stat().st_size != size:
            raise BundleError(
                f"{path} has {path.stat().st_size:,} bytes, the manifest says {size:,}: "
                "it was changed or cut off; export or fetch the bundle again"
            )
