"""A Hugging Face folder as a checkpoint: `config.json` and weights, whole or sharded, read strictly.

Strict means: every parameter is there, none is extra, every shape is the config's, every number is finite. Training
state lies beside the checkpoint in files of its own and is not read here.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from model.config import ModelConfig
from model.errors import CheckpointError
from model.files import replacing_folder, write_json
from model.hub import resolve_checkpoint
from model.parameters import parameter_shapes
from model.transformer import TransformerModel
from model.weight_files import INDEX_FILE, WEIGHTS_FILE, WeightFiles
from model.weights import HEAD, TABLE

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
SIDE_FILES = (*TOKENIZER_FILES, "generation_config.json")


class Checkpoint:
    """An open checkpoint folder, a `ModelSource`: its config, and its tensors one at a time.

    Opening it checks names and shapes against the config from the files' headers; a tensor's numbers are read, and
    checked to be finite, when they are asked for.

    Raises:
        CheckpointNotFoundError: no such folder.
        CheckpointError: weights absent, cut off, or of other names or shapes than the config's.
        ConfigError: a config that cannot be honoured.
    """

    def __init__(self, folder: str | Path, *, revision: str | None = None) -> None:
        self.folder = resolve_checkpoint(folder, revision)
        config_path = self.folder / "config.json"
        if not config_path.is_file():
            raise CheckpointError(f"{self.folder} is not a checkpoint: it has no config.json")
        self.config = ModelConfig.from_file(config_path)
        self.shapes: Mapping[str, tuple[int, ...]] = parameter_shapes(self.config)
        self._files = WeightFiles(self.folder)
        self._check_against_config()

    def tensor(self, name: str) -> Tensor:
        """One parameter as float32. A tied head is the vocabulary table.

        Raises:
            CheckpointError: the numbers are not all finite, or cannot be read.
        """
        if name == HEAD and HEAD not in self._files.shapes:
            name = TABLE
        tensor = self._files.tensor(name).float()
        if not torch.isfinite(tensor).all():
            count = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(f"{self.folder}: {name} holds {count} numbers that are NaN or infinite: it is broken")
        return tensor

    def side_files(self) -> Iterator[Path]:
        """The tokenizer's and the generation config's files that are there."""
        return (path for name in SIDE_FILES if (path := self.folder / name).is_file())

    def _check_against_config(self) -> None:
        expected, stored = dict(self.shapes), self._files.shapes
        if self.config.tie_word_embeddings and HEAD in stored:
            expected[HEAD] = expected[TABLE]  # some writers store the tied head again; compared below
        missing, extra = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
        if missing or extra:
            parts = [f"{word} {_listed(names)}" for word, names in (("missing", missing), ("extra", extra)) if names]
            raise CheckpointError(f"{self.folder}: the weights do not fit config.json: {'; '.join(parts)}")
        for name, shape in stored.items():
            if shape != expected[name]:
                raise CheckpointError(
                    f"{self.folder}: {name} has shape {list(shape)}, config.json asks for {list(expected[name])}"
                )
        if self.config.tie_word_embeddings and HEAD in stored:
            head = self.tensor(HEAD)
            if not torch.equal(head, self.tensor(TABLE)):
                raise CheckpointError(
                    f"{self.folder}: config.json ties the head to embed_tokens, but the file holds two different ones; "
                    "set tie_word_embeddings to false"
                )


def save_checkpoint(
    model: TransformerModel,
    folder: str | Path,
    *,
    side_files: Iterable[Path] = (),
    extra_files: dict[str, Any] | None = None,
    max_shard_bytes: int = 4_000_000_000,
) -> Path:
    """Write a folder that `load_checkpoint` and transformers read; what stood there before is replaced at the end.

    Args:
        model: its parameters are stored in their dtype; a tied head is stored once.
        folder: where to.
        side_files: tokenizer files and the like, copied by name.
        extra_files: file name -> JSON value, written beside the weights.
        max_shard_bytes: more than this and the weights are split over several files with an index.
    """
    tensors = {name: parameter.detach().contiguous().cpu() for name, parameter in model.named_parameters()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{name} holds NaN or infinite numbers; the checkpoint was not written")
    with replacing_folder(folder) as temporary:
        dtype = str(model.lm_head.weight.dtype).removeprefix("torch.")
        write_json(temporary / "config.json", model.config.to_dict() | {"torch_dtype": dtype})
        for path in side_files:
            shutil.copyfile(path, temporary / path.name)
        for name, value in (extra_files or {}).items():
            write_json(temporary / name, value)
        try:
            _save_tensors(tensors, temporary, max_shard_bytes)
        except SafetensorError as error:  # a full disk, which safetensors does not tell as an OSError
            raise CheckpointError(f"{folder} could not be written: {error}; what stood there before stands") from None
    return Path(folder)


def _save_tensors(tensors: dict[str, Tensor], folder: Path, max_shard_bytes: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.nbytes > max_shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.nbytes
    if len(shards) == 1:
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file_name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _listed(names: list[str], limit: int = 4) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
