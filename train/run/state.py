"""Saved states, from which a run resumes: weights, the optimizers' moments, and their step.

    state/step-00000700/    a complete state: the folder gets this name when all of its files are on disk
        shard-*.safetensors     files of each rank; any number of ranks can read them
        state.json              the step, the data's fingerprint, each file's SHA-256, and the SHA-256 of all this

The hashes are compared before a state is used, so that one bit that a disk or a copy has flipped is noticed.

torch.distributed.checkpoint writes them in safetensors, for one rank or many; nothing is ever unpickled. A state needs
no random state, because batches and samples are functions of the seed and the step.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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
from train.precision import LossScale

ABOUT = "state.json"
FILE_BYTES = 64 * 2**20  # a larger tensor has a file of its own
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
        loss_scale: LossScale | None = None,
        keep: Collection[int] = (),
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
            loss_scale: of a run in float16.
            keep: steps whose states remain in any case.
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
                tensors = _tensors(model, optimizers)
                writer = HuggingFaceStorageWriter(str(partial), _numbers_of_files(tensors), save_distributed=True)
                dcp.save(tensors, storage_writer=writer, no_dist=ranks.world_size == 1)
            if ranks.is_first:
                save_data(partial)
                scale = None if loss_scale is None else dataclasses.asdict(loss_scale)
                about = {"step": step, "data": data, "loss_scale": scale, "files": _file_hashes(partial)}
                write_json(partial / ABOUT, about | {"sha256": _hash_of(about)})
                _flush(partial)
                shutil.rmtree(final, ignore_errors=True)
                partial.replace(final)
                _flush(self.folder, inside=False)
        except (OSError, SafetensorError, CheckpointException) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise RunError(f"the state of step {step} could not be written: {_reason(error)}; {self._hint()}") from None
        ranks.barrier()
        if ranks.is_first:
            for number in [number for number in self.steps() if number not in keep][:-keep_last]:
                shutil.rmtree(self.folder / _name(number))

    def steps(self) -> list[int]:
        """The steps of the saved states, ascending."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    def folder_of(self, step: int) -> Path:
        """The folder of a step's state."""
        return self.folder / _name(step)

    def remove_after(self, step: int) -> None:
        """Delete the states of later steps."""
        for number in self.steps():
            if number > step:
                shutil.rmtree(self.folder / _name(number))

    def load(
        self,
        model: TransformerModel,
        optimizers: Sequence[Optimizer],
        ranks: Ranks,
        *,
        data: str | None,
        steps: Collection[int] | None = None,
    ) -> tuple[int, LossScale | None]:
        """Load the newest complete state into a model and its optimizers. All ranks must call this.

        A truncated or broken state is skipped, with a warning on stderr, for the one before it.

        Args:
            model: of the same shape as the one saved.
            optimizers: of its parameters.
            ranks: the processes that train it; their number may have changed.
            data: the fingerprint of the corpus; None where it may have changed.
            steps: those from which to choose; by default all.

        Returns:
            The state's step, and its loss scale where it had one.

        Raises:
            RunError: there is no complete state, or it belongs to another model or other data.
        """
        candidates = [step for step in self.steps() if steps is None or step in steps]
        for step in reversed(candidates):
            folder = self.folder / _name(step)
            try:
                about = _check_on_rank0(folder, ranks)
                if data is not None and about["data"] != data:
                    raise RunError(f"the data have changed since {folder} was saved; the run cannot be resumed exactly")
                self._read(folder, model, optimizers, ranks)
            except BROKEN as error:
                ranks.print_rank0(f"warning: {folder} is truncated or broken ({_reason(error)}); trying the one before")
                continue
            scale = about["loss_scale"]
            return int(about["step"]), None if scale is None else LossScale(**scale)
        if candidates:
            which = "every state" if steps is None else f"the state of step {candidates[-1]}"
            raise RunError(f"{which} in {self.folder} is truncated or broken; the run cannot be resumed")
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


def _numbers_of_files(tensors: dict[str, Tensor]) -> dict[str, int]:
    """Which file, from 1 on, each tensor goes to. The writer holds two copies of a file in memory, so files are small.

    All tensors in one file would double the memory of a run at each save.
    """
    numbers: dict[str, int] = {}
    number, filled = 1, 0
    for name, tensor in tensors.items():
        if filled and filled + tensor.nbytes > FILE_BYTES:
            number, filled = number + 1, 0
        numbers[name] = number
        filled += tensor.nbytes
    return numbers


def _check_complete(folder: Path) -> dict[str, Any]:
    """The record of a state, after its files were found to be what was written. Raises one of `BROKEN`."""
    about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    if about.pop("sha256") != _hash_of(about):
        raise ValueError(f"{ABOUT} is not what was written")
    found = _file_hashes(folder)
    for name, sha256 in about["files"].items():
        if found.get(name) != sha256:
            raise ValueError(f"{name} is {'missing' if name not in found else 'not what was written'}")
    return about


def _check_on_rank0(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """`_check_complete` where rank 0 alone reads the files, and all ranks fail where it does."""
    error: BaseException | None = None
    if ranks.is_first:
        try:
            _check_complete(folder)
        except BROKEN as raised:
            error = raised
    if ranks.all_reduce_max(int(error is not None)):
        raise error or ValueError("rank 0 found it so")
    about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    return about


def _file_hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of a state but its record, by name."""
    hashes = {}
    for path in sorted(path for path in folder.iterdir() if path.name != ABOUT):
        with path.open("rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _hash_of(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _is_complete(folder: Path) -> bool:
    try:
        _check_complete(folder)
    except BROKEN:
        return False
    return True


def _flush(folder: Path, *, inside: bool = True) -> None:
    """Force a folder, and with `inside` its files, onto the disk.

    Some network disks, Google Drive's in Colab among them, cannot do so for a folder.
    """
    for path in (*(folder.iterdir() if inside else ()), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if path != folder or error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
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
