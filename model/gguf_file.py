"""A GGUF file: opened with the `gguf` package, its metadata as plain values, its tensors as float32 arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import CheckpointError, CheckpointNotFoundError
from runtime.errors import MissingDependencyError

MAGIC = b"GGUF"


class GGUFFile:
    """An open GGUF file.

    Attributes:
        path: the file.
        metadata: key -> value; read when it is asked for.
        shapes: tensor name -> shape, outermost dimension first, as PyTorch has it.

    Raises:
        CheckpointNotFoundError: no such file.
        CheckpointError: another kind of file, one that is cut off, one part of several, or of the other byte order.
        MissingDependencyError: the `gguf` package is not installed.
    """

    def __init__(self, path: Path) -> None:
        _check_magic(path)
        self.path = path
        self._reader = _open(path)
        self.metadata: Mapping[str, Any] = _Metadata(self._reader.fields)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.shapes = {
            name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in self._tensors.items()
        }
        if self._reader.byte_order == "S":
            raise CheckpointError(f"{path} is a GGUF file of the other byte order; fetch the little-endian one")
        parts = self.metadata.get("split.count", 1)
        if parts > 1:
            raise CheckpointError(
                f"{path} is one of {parts} parts of a model; join them with llama.cpp's llama-gguf-split --merge"
            )

    def tensor(self, name: str) -> NDArray[np.float32]:
        """A tensor, dequantized.

        Raises:
            CheckpointError: it is stored in a type that the `gguf` package cannot dequantize.
        """
        import gguf

        stored = self._tensors[name]
        try:
            array = gguf.dequantize(stored.data, stored.tensor_type)
        except (NotImplementedError, ValueError) as error:
            raise CheckpointError(
                f"{self.path}: {name} is stored as {stored.tensor_type.name}, which cannot be read: {error}"
            ) from None
        return np.array(array, np.float32).reshape(self.shapes[name])


class _Metadata(Mapping[str, Any]):
    """The fields of a file as Python values."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    def __getitem__(self, key: str) -> Any:
        value = self._fields[key].contents()
        if self._fields[key].types[0].name == "FLOAT32":
            return float(str(np.float32(value)))  # 1e-5 was stored, and not 9.999999747e-6
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


def _check_magic(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except FileNotFoundError:
        raise CheckpointNotFoundError(f"there is no file {path}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if magic != MAGIC:
        what = "is empty" if not magic else "is not a GGUF file"
        raise CheckpointError(f"{path} {what}; give a GGUF file, or a folder with config.json and weights")


def _open(path: Path) -> Any:
    try:
        import gguf
    except ModuleNotFoundError:
        raise MissingDependencyError("GGUF files need gguf: pip install gguf") from None

    class Reader(gguf.GGUFReader):  # type: ignore[misc]  # the package is an extra
        """The package's reader takes what lies beyond the end of the file for empty, and may go on for ever."""

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> NDArray[Any]:
            if isinstance(self.data, np.memmap):  # whose slices cost several times those of an array
                self.data = self.data.view(np.ndarray)
            end = int(offset) + np.dtype(dtype).itemsize * int(count)
            if end > self.data.size:
                raise EOFError(f"it ends at byte {self.data.size:,} and should reach {end:,} at least")
            found: NDArray[Any] = super()._get(offset, dtype, count, override_order)
            return found

    try:
        return Reader(path)
    except EOFError as error:
        raise CheckpointError(f"{path} is cut off: {error}; fetch it again") from None
    except (ValueError, KeyError, IndexError, OverflowError, TypeError) as error:
        raise CheckpointError(f"{path} is not a GGUF file that can be read: {error}; fetch it again") from None
