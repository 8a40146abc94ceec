"""The weight files of a checkpoint folder: safetensors, or else PyTorch's own, whole or sharded.

PyTorch's files are pickles, so they are read with `weights_only=True`: a file that would run code is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.errors import CheckpointError
from model.files import read_object

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PYTORCH_FILE = "pytorch_model.bin"
PYTORCH_INDEX_FILE = "pytorch_model.bin.index.json"
# Old exports stored RoPE's frequencies, which the config determines.
_DERIVED = "rotary_emb.inv_freq"


class WeightFiles:
    """The tensors of a folder by name, each read when it is asked for.

    Attributes:
        shapes: name -> shape of every tensor, from the files' headers.

    Raises:
        CheckpointError: there are no weights, or a file is cut off, broken, or holds other things than tensors.
    """

    def __init__(self, folder: Path) -> None:
        self._file_of: dict[str, Path] = {}
        self._unpickled: dict[Path, Mapping[str, Tensor]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in _weight_files(folder):
            shapes = self._shapes(path)
            found = {name: shape for name, shape in shapes.items() if not name.endswith(_DERIVED)}
            self._file_of |= dict.fromkeys(found, path)
            self.shapes |= found

    def tensor(self, name: str) -> Tensor:
        """One tensor in its stored dtype.

        Raises:
            CheckpointError: it cannot be read, or holds integers, which are no weights without their scales.
        """
        path = self._file_of[name]
        if path in self._unpickled:
            tensor = self._unpickled[path][name]
        else:
            try:
                with safe_open(path, framework="pt") as file:
                    tensor = file.get_tensor(name)
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path}: {name} cannot be read: {error}") from None
        if not tensor.is_floating_point():
            raise CheckpointError(f"{path}: {name} holds {tensor.dtype}, not floats: export the unquantized model")
        return tensor

    def _shapes(self, path: Path) -> dict[str, tuple[int, ...]]:
        if path.suffix == ".bin":
            self._unpickled[path] = _unpickle(path)
            return {name: tuple(tensor.shape) for name, tensor in self._unpickled[path].items()}
        try:
            with safe_open(path, framework="pt") as file:
                return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no dict
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} is cut off or not a safetensors file ({error}); fetch it again") from None


def has_weights(folder: Path) -> bool:
    """Whether a folder has weights under a name that is read."""
    return any((folder / name).is_file() for name in (WEIGHTS_FILE, INDEX_FILE, PYTORCH_FILE, PYTORCH_INDEX_FILE))


def _unpickle(path: Path) -> Mapping[str, Tensor]:
    """The state dict of a PyTorch file; the numbers of newer files stay on disk until they are used."""
    try:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # a file from before PyTorch 1.6, which cannot be mapped
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - whatever a broken pickle raises; torch's words advise to run what it holds
        raise CheckpointError(
            f"{path} is cut off, or holds more than tensors, which could run code and is not loaded: fetch it again, "
            "or convert it to safetensors where it was made"
        ) from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} does not hold a model's state dict, name by name")
    return state


def _weight_files(folder: Path) -> list[Path]:
    for whole, index in ((WEIGHTS_FILE, INDEX_FILE), (PYTORCH_FILE, PYTORCH_INDEX_FILE)):
        if (folder / whole).is_file():
            return [folder / whole]
        if (folder / index).is_file():
            return _shards(folder / index)
    suffixes = {".safetensors", ".bin", ".pt", ".pth"}
    others = sorted(path.name for path in folder.iterdir() if path.suffix in suffixes)
    hint = f"; {', '.join(others)} cannot be read under that name" if others else ""
    raise CheckpointError(
        f"{folder} is not a checkpoint: it has neither {WEIGHTS_FILE} nor {PYTORCH_FILE}, whole or with an index{hint}"
    )


def shard_names(index: Path) -> list[str]:
    """The files that an index of weights names.

    Raises:
        CheckpointError: it cannot be read, or names files outside its folder or of another kind.
    """
    try:
        names = sorted(set(read_object(index, CheckpointError)["weight_map"].values()))
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of weights: {error!r}") from None
    suffix = ".bin" if index.name == PYTORCH_INDEX_FILE else ".safetensors"
    for name in names:
        if Path(name).name != name:  # an index from a stranger must not lead out of the folder
            raise CheckpointError(f"{index} names a file outside the folder: {name!r}")
        if not name.endswith(suffix):
            raise CheckpointError(f"{index} names {name!r}, which is not a {suffix} file")
    return names


def _shards(index: Path) -> list[Path]:
    names = shard_names(index)
    for name in names:
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index} names {name}, which is not there")
    return [index.parent / name for name in names]
