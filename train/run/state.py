"""Saved states, from which a run resumes: weights, the optimizers' moments, and their step.

    state/step-00000700/    a complete state: the folder gets this name when all of its files are on disk
        shard-*.safetensors     one file per rank; any number of ranks can read them
        state.json              the step, the data's fingerprint, and the size of each file in bytes

torch.distributed.checkpoint writes them in safetensors, for one rank or many; nothing is ever unpickled. A state needs
no random state, because batches and samples are functions of the seed and the step.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.optim import Optimizer

from model import TransformerModel
from model.files import write_json
from train.distributed.ranks import Ranks
from train.errors import RunError

ABOUT = "state.json"
BROKEN = (OSError, ValueError, KeyError, SafetensorError, CheckpointException)


class States:
    """The saved states of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(
        self,
        model: TransformerModel,
        optimizers: Iterable[Optimizer],
        ranks: Ranks,
        *,
        step: int,
        data: str,
        keep_last: int,
        save_data: Callable[[Path], None] = lambda _: None,
    ) -> None:
        """Write a state atomically, then delete all but the last `keep_last`. All ranks must call this.

        Args:
            model: its parameters may be sharded over the ranks.
            optimizers: of its parameters.
            ranks: the processes that train it.
            step: updates made.
            data: the fingerprint of the corpus.
            keep_last: how many states remain afterwards.
            save_data: writes where the data are into the folder of the state.

        Raises:
            RunError: it could not be written, on a full disk for example. Older states are kept.
        """
        final, partial = self.folder / _name(step), self.folder / f".{_name(step)}.partial"
        if ranks.all_reduce_max(int(ranks.is_first and _is_complete(final))):
            return  # replacing it would leave no state for a moment
        try:
            if ranks.is_first:
                self.clean()
            ranks.barrier()
            with _single_process_is_fine():
                writer = HuggingFaceStorageWriter(str(partial), save_distributed=True)
                dcp.save(_tensors(model, optimizers), storage_writer=writer, no_dist=ranks.world_size == 1)
            if ranks.is_first:
                save_data(partial)
                files = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
                write_json(partial / ABOUT, {"step": step, "data": data, "files": files})
                _flush(partial)
                shutil.rmtree(final, ignore_errors=True)
                partial.replace(final)
                _flush(self.folder, inside=False)
        except (OSError, SafetensorError, CheckpointException) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise RunError(f"the state of step {step} could not be written: {_reason(error)}; {self._hint()}") from None
        ranks.barrier()
        if ranks.is_first:
            for number in self.steps()[:-keep_last]:
                shutil.rmtree(self.folder / _name(number))

    def steps(self) -> list[int]:
        """The steps of the saved states, ascending."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    def folder_of(self, step: int) -> Path:
        """The folder of a step's state."""
        return self.folder / _name(step)

    def load(self, model: TransformerModel, optimizers: Sequence[Optimizer], ranks: Ranks, *, data: str) -> int:
        """Load the newest complete state into a model and its optimizers; return its step. All ranks must call this.

        A truncated or broken state is skipped, with a warning on stderr, for the one before it.

        Raises:
            RunError: there is no complete state, or it belongs to another model or other data.
        """
        for step in reversed(self.steps()):
            folder = self.folder / _name(step)
            try:
                about = _check_complete(folder)
                if about["data"] != data:
                    raise RunError(f"the data have changed since {folder} was saved; the run cannot be resumed exactly")
                self._read(folder, model, optimizers, ranks)
            except BROKEN as error:
                ranks.print_rank0(f"warning: {folder} is truncated or broken ({_reason(error)}); trying the one before")
                continue
            return int(about["step"])
        if self.steps():
            raise RunError(f"every state in {self.folder} is truncated or broken; the run cannot be resumed")
        raise RunError(f"{self.folder.parent} has no state to resume from: it was stopped before its first save")

    def _read(self, folder: Path, model: TransformerModel, optimizers: Iterable[Optimizer], ranks: Ranks) -> None:
        tensors = _tensors(model, optimizers)
        reader = HuggingFaceStorageReader(str(folder))
        saved = {name: item.size for name, item in reader.read_metadata().state_dict_metadata.items()}
        if saved != {name: tensor.shape for name, tensor in tensors.items()}:
            raise RunError(f"{folder} is the state of another model or optimizer")
        with _single_process_is_fine():
            dcp.load(tensors, storage_reader=reader, no_dist=ranks.world_size == 1)

    def clean(self) -> None:
        """Delete the temporary folders of a process that was killed while writing."""
        for leftover in self.folder.glob(".step-*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _hint(self) -> str:
        steps = self.steps()
        return f"the state of step {steps[-1]} stands" if steps else "there is none before it"


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _tensors(model: TransformerModel, optimizers: Iterable[Optimizer]) -> dict[str, Tensor]:
    """All tensors that training changes, by name: `weight.NAME`, `exp_avg.NAME` and the optimizers' others."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {f"weight.{name}": parameter.detach() for parameter, name in names.items()}
    for optimizer in optimizers:
        for parameter, moments in optimizer.state.items():
            tensors |= {f"{key}.{names[parameter]}": value for key, value in moments.items()}
    return tensors


def _check_complete(folder: Path) -> dict[str, Any]:
    """The record of a state, after its files were found complete. Raises one of `BROKEN`."""
    about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    for name, size in about["files"].items():
        found = (folder / name).stat().st_size
        if found != size:
            raise ValueError(f"{name} has {found:,} bytes of {size:,}")
    return about


def _is_complete(folder: Path) -> bool:
    try:
        _check_complete(folder)
    except BROKEN:
        return False
    return True


def _flush(folder: Path, *, inside: bool = True) -> None:
    """Force a folder, and with `inside` its files, onto the disk."""
    for path in (*(folder.iterdir() if inside else ()), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _single_process_is_fine() -> Iterator[None]:
    """Silence torch's warning that there is only one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _reason(error: BaseException) -> str:
    """The cause of an error in one line. Torch wraps it in an exception with one cause per rank."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
