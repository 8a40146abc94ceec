"""A GGUF file as a source of weights: tensors under Hugging Face's names, dequantized, with half-split rotary pairs."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.checkpoint import TOKENIZER_FILES
from model.errors import CheckpointError
from model.files import write_json
from model.gguf_config import ARCHITECTURES, ROPE_FACTORS, gguf_architecture, read_gguf_config
from model.gguf_file import GGUFFile
from model.gguf_sampling import sampling_defaults
from model.gguf_tokenizer import write_tokenizer
from model.parameters import parameter_shapes
from model.weights import HEAD, TABLE
from runtime.generation_config import FILE as GENERATION_CONFIG

SUFFIX = ".gguf"
_OUTSIDE = {TABLE: "token_embd.weight", "model.norm.weight": "output_norm.weight", HEAD: "output.weight"}
_IN_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class GGUFModel:
    """A `ModelSource`: the model of a GGUF file.

    Args:
        path: the file.
        tokenizer: a folder with tokenizer.json, taken instead of the file's own tokenizer.

    Raises:
        CheckpointNotFoundError, CheckpointError, MissingDependencyError: as `GGUFFile` does; and where tensors are
            absent, or have other names or shapes than those of the config.
        ConfigError: a model that is not of the family, or a setting that cannot be honoured.
    """

    def __init__(self, path: Path, *, tokenizer: Path | None = None) -> None:
        if tokenizer is not None and not (tokenizer / "tokenizer.json").is_file():
            raise CheckpointError(f"--tokenizer {tokenizer} is not a folder with tokenizer.json")
        self.folder = path.parent
        self._file = GGUFFile(path)
        self._tokenizer = tokenizer
        self.config = read_gguf_config(self._file)
        self._is_permuted = ARCHITECTURES[gguf_architecture(self._file)]
        self.shapes: Mapping[str, tuple[int, ...]] = parameter_shapes(self.config)
        self._check_tensors()

    @property
    def own_name(self) -> str | None:
        """What the file calls the model: `general.name`."""
        name = self._file.metadata.get("general.name")
        return name if isinstance(name, str) else None

    def tensor(self, name: str) -> Tensor:
        """`WeightSource.tensor`."""
        if name == HEAD and name not in self.shapes:
            name = TABLE
        array = self._file.tensor(gguf_name(name))
        heads = {"q_proj": self.config.num_attention_heads, "k_proj": self.config.num_key_value_heads}
        kind = name.split(".")[-2]
        if self._is_permuted and kind in heads:
            array = half_split(array, heads[kind])
        tensor = torch.from_numpy(array)
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{self._file.path}: {name} holds numbers that are NaN or infinite: it is broken")
        return tensor

    def side_files(self) -> Iterator[Path]:
        """The tokenizer's files and, where the file has sampling defaults, `generation_config.json`.

        The GGUF file's own are written to a temporary folder, removed when the process ends.

        Raises:
            CheckpointError: the file has no tokenizer, or one of a kind that is not implemented.
        """
        folder = self._own_tokenizer if self._tokenizer is None else self._tokenizer
        tokenizer = (path for name in TOKENIZER_FILES if (path := folder / name).is_file())
        return chain(tokenizer, self._generation_config)

    @functools.cached_property
    def _own_tokenizer(self) -> Path:
        folder = _temporary_folder()
        write_tokenizer(self._file, folder)
        return folder

    @functools.cached_property
    def _generation_config(self) -> tuple[Path, ...]:
        defaults = sampling_defaults(self._file.metadata)
        if not defaults:
            return ()
        config = self.config.to_dict()
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        path = _temporary_folder() / GENERATION_CONFIG
        write_json(path, {name: config[name] for name in names if name in config} | defaults)
        return (path,)

    def _check_tensors(self) -> None:
        path, stored = self._file.path, self._file.shapes
        expected = {gguf_name(name): shape for name, shape in self.shapes.items()}
        missing = sorted(expected.keys() - stored.keys())
        extra = sorted(stored.keys() - expected.keys() - {ROPE_FACTORS})
        if missing or extra:
            parts = [f"{word} {', '.join(names[:4])}" for word, names in (("lacks", missing), ("has", extra)) if names]
            raise CheckpointError(f"{path}: the tensors do not fit the architecture: the file {'; it '.join(parts)}")
        for name, shape in expected.items():
            if stored[name] != shape:
                raise CheckpointError(
                    f"{path}: {name} has shape {list(stored[name])}, the metadata ask for {list(shape)}"
                )


def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="gguf-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def is_gguf(name: str | Path) -> bool:
    """Whether a user means a GGUF file: by its suffix, or because it is a file and no folder."""
    path = Path(name)
    return path.is_file() or (path.suffix.lower() == SUFFIX and not path.is_dir())


def gguf_name(name: str) -> str:
    """llama.cpp's name of a parameter, from Hugging Face's."""
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    _, _, layer, module = name.split(".", 3)
    module, _, kind = module.rpartition(".")
    return f"blk.{layer}.{_IN_LAYER[module]}.{kind}"


def half_split(array: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo llama.cpp's order of a projection's rows, in which the two of a rotary pair are neighbours.

    Args:
        array: [heads * head_dim, ...].
        heads: how many.

    Returns:
        The same shape, with the two of a pair half a head apart.
    """
    pairs = array.reshape(heads, -1, 2, *array.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(array.shape)
