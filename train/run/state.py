"""What a run needs to go on after it was stopped: weights, the optimizers' moments, and the step they belong to.

    state/step-00000700/    a state, whole: the folder gets its name when everything in it is on disk
        shard-*.safetensors     a file a rank; any number of ranks can read what any other number wrote
        state.json              the step, the data's fingerprint, and how many bytes each file has

Written by torch.distributed.checkpoint, whatever the number of ranks, in safetensors: nothing is ever unpickled. There
is no random state in it, for batches and samples are functions of the seed and the step.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
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
    """The saved states of a run, the newest first to be tried."""

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
    ) -> None:
        """Write a state whole or not at all, then delete all but the last few. All ranks must call this.

        Args:
            model: its parameters, which may be split over the ranks.
            optimizers: of those parameters.
            ranks: all that train it.
            step: updates done.
            data: the fingerprint of what is trained on.
            keep_last: how many states may stand afterwards.

        Raises:
            RunError: it could not be written, on a full disk for example. Every older state still stands.
        """
        final, partial = self.folder / _name(step), self.folder / f".{_name(step)}.partial"
        if ranks.largest(int(ranks.is_first and _is_whole(final))):
            return  # it would be written over itself, and be gone for a moment
        try:
            if ranks.is_first:
                self.clean()
            ranks.wait()
            with _single_process_is_fine():
                writer = HuggingFaceStorageWriter(str(partial), save_distributed=True)
                dcp.save(_tensors(model, optimizers), storage_writer=writer, no_dist=ranks.world_size == 1)
            if ranks.is_first:
                files = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
                write_json(partial / ABOUT, {"step": step, "data": data, "files": files})
                _flush(partial)
                shutil.rmtree(final, ignore_errors=True)
                partial.replace(final)
                _flush(self.folder, inside=False)
        except (OSError, SafetensorError, CheckpointException) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise RunError(f"the state of step {step} could not be written: {_reason(error)}; {self._hint()}") from None
        ranks.wait()
        if ranks.is_first:
            for number in self.steps()[:-keep_last]:
                shutil.rmtree(self.folder / _name(number))

    def steps(self) -> list[int]:
        """The steps of the states that there are, rising."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    def load(self, model: TransformerModel, optimizers: Sequence[Optimizer], ranks: Ranks, *, data: str) -> int:
        """Put the newest whole state into a model and its optimizers; return its step. All ranks must call this.

        A state that is cut off or broken is told on stderr and passed over for the one before.

        Raises:
            RunError: no whole state, or one of another model or other data.
        """
        for step in reversed(self.steps()):
            folder = self.folder / _name(step)
            try:
                about = _check_whole(folder)
                if about["data"] != data:
                    raise RunError(f"the data have changed since {folder} was saved; the run cannot go on exactly")
                self._read(folder, model, optimizers, ranks)
            except BROKEN as error:
                ranks.say(f"warning: {folder} is cut off or broken ({_reason(error)}); trying the one before")
                continue
            return int(about["step"])
        if self.steps():
            raise RunError(f"every state in {self.folder} is cut off or broken; the run cannot be resumed")
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
        """Delete what a process left that was killed while it wrote."""
        for leftover in self.folder.glob(".step-*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _hint(self) -> str:
        steps = self.steps()
        return f"the state of step {steps[-1]} stands" if steps else "there is none before it"


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _tensors(model: TransformerModel, optimizers: Iterable[Optimizer]) -> dict[str, Tensor]:
    """Every number that training changes, by name: `weight.NAME`, and AdamW's `exp_avg.NAME` and the like."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {f"weight.{name}": parameter.detach() for parameter, name in names.items()}
    for optimizer in optimizers:
        for parameter, moments in optimizer.state.items():
            tensors |= {f"{key}.{names[parameter]}": value for key, value in moments.items()}
    return tensors


def _check_whole(folder: Path) -> dict[str, Any]:
    """What a state's own record says, after a look at its files. Raises one of `BROKEN`."""
    about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    for name, size in about["files"].items():
        found = (folder / name).stat().st_size
        if found != size:
            raise ValueError(f"{name} has {found:,} bytes of {size:,}")
    return about


def _is_whole(folder: Path) -> bool:
    try:
        _check_whole(folder)
    except BROKEN:
        return False
    return True


def _flush(folder: Path, *, inside: bool = True) -> None:
    """Have the system write a folder, and the files in it, to the disk before anything relies on them."""
    for path in (*(folder.iterdir() if inside else ()), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _single_process_is_fine() -> Iterator[None]:
    """Torch warns where there is one process; that is a way of ours."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _reason(error: BaseException) -> str:
    """What went wrong, in a line; torch hides it behind the rank that it happened to."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
