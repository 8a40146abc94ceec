"""One process a device, as `torchrun` starts them: who this one is, and what they tell each other.

A process that torchrun did not start is rank 0 of 1, and every call here is then free. Rank 0 alone writes files and
speaks to the user. Several nodes meet as torchrun's own options say; nothing here starts a process.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import torch
import torch.distributed as dist
from tqdm import tqdm

from train.config import MachineSection
from train.errors import RecipeError

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train one model together."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def sum(self, *numbers: torch.Tensor | float) -> list[float]:
        """The sums of some numbers over all ranks, the same on each. A GPU's tensors are waited for."""
        if self.world_size == 1:
            return [float(number) for number in numbers]
        totals = torch.stack([torch.as_tensor(n, dtype=torch.float64, device=self.device) for n in numbers])
        dist.all_reduce(totals)
        return totals.tolist()

    def largest(self, number: int) -> int:
        """The largest of a number over all ranks."""
        if self.world_size == 1:
            return number
        largest = torch.tensor(number, device=self.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def say(self, line: str) -> None:
        """Tell the user, above a progress bar if there is one; rank 0 alone does."""
        if self.is_first:
            tqdm.write(line, file=sys.stderr)

    def wait(self) -> None:
        """Return when all ranks have come so far."""
        if self.world_size > 1:
            dist.barrier()


def join_ranks(machine: MachineSection) -> Ranks:
    """Meet the other processes that torchrun started, if it did. Raises RecipeError for a device that is not there.

    Each node's processes take its GPUs in order and talk over NCCL; on CPUs they talk over gloo.
    """
    if machine.device == "cuda" and not torch.cuda.is_available():
        raise RecipeError("machine.device is cuda, but torch finds no GPU here")
    on_gpu = machine.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else CPU
    if on_gpu:
        torch.cuda.set_device(device)
    if machine.threads:
        torch.set_num_threads(machine.threads)
    if machine.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for; read at its first use
        torch.use_deterministic_algorithms(mode=True)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Ranks(device=device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo", device_id=device if on_gpu else None)
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def leave_ranks() -> None:
    """Part from the other processes; harmless where there are none."""
    if dist.is_initialized():
        dist.destroy_process_group()
