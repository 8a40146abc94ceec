"""One process per device, as `torchrun` or `launch` starts them: this one's rank, and collective operations on numbers.

A process that neither started is rank 0 of 1, and its collectives cost nothing. Only rank 0 writes files and prints.
Processes on several nodes find each other by torchrun's own options.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from runtime.errors import SmolTextError
from runtime.progress import write_line
from train.config import MachineSection
from train.distributed.launch import LAUNCHED
from train.errors import RecipeError, RunError
from train.precision import choose_precision, set_product_precision

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train one model together."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes the files."""
        return self.rank == 0

    def all_reduce_sum(self, *numbers: torch.Tensor | float) -> list[float]:
        """The sum of each number over all ranks, in float64. Waits for tensors on a GPU. All ranks must call this."""
        if self.world_size == 1:
            return [float(number) for number in numbers]
        totals = torch.stack([torch.as_tensor(n, dtype=torch.float64, device=self.device) for n in numbers])
        dist.all_reduce(totals)
        return totals.tolist()

    def all_reduce_max(self, number: int) -> int:
        """The largest value of a number over all ranks. All ranks must call this."""
        if self.world_size == 1:
            return number
        largest = torch.tensor(number, device=self.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def on_rank0(self, work: Callable[[], None]) -> None:
        """Do some work on rank 0 alone. Where it fails, all ranks fail. All ranks must call this."""
        error: SmolTextError | None = None
        if self.is_first:
            try:
                work()
            except SmolTextError as raised:
                error = raised
        if self.all_reduce_max(int(error is not None)):
            raise error or RunError("rank 0 has failed")

    def print_rank0(self, line: str) -> None:
        """Print a line on stderr, above a progress bar if there is one, on rank 0 alone."""
        if self.is_first:
            write_line(line)

    def barrier(self) -> None:
        """Wait until all ranks have called this."""
        if self.world_size > 1:
            dist.barrier()


def join_ranks(machine: MachineSection) -> Ranks:
    """Join the process group that this process was started for, if it was, and set up this process's device.

    The processes of a node take its GPUs in order and communicate over NCCL; on CPUs they communicate over gloo.

    Raises:
        RecipeError: the recipe asks for a GPU and there is none, or there are fewer than processes.
    """
    device = _device(machine.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        set_product_precision(choose_precision(machine.precision, device))
    if machine.threads:
        torch.set_num_threads(machine.threads)
    if machine.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it, and reads it at its first use
        torch.use_deterministic_algorithms(mode=True)
    if "TORCHELASTIC_RUN_ID" not in os.environ and LAUNCHED not in os.environ:
        return Ranks(device=device)
    if device.type == "mps":
        raise RecipeError("several processes cannot train on one Apple GPU: start one, or set machine.device to cpu")
    on_gpu = device.type == "cuda"
    if not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo", device_id=device if on_gpu else None)
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def _device(wanted: str) -> torch.device:
    """This process's device. Raises RecipeError where there is none of that kind, or none left for it."""
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if (wanted == "cuda" and not has_cuda) or (wanted == "mps" and not has_mps):
        raise RecipeError(f"machine.device is {wanted}, but torch finds no GPU of that kind here")
    if wanted == "cuda" or (wanted == "auto" and has_cuda):
        index, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if index >= count:
            raise RecipeError(f"each process takes a GPU, and there are {count}: start {count} processes")
        return torch.device("cuda", index)
    return torch.device("mps") if wanted == "mps" or (wanted == "auto" and has_mps) else CPU


def leave_ranks() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
