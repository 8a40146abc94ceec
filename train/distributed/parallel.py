"""How a model is laid out on devices: compiled or not, replicated (DDP) or sharded (FSDP2).

Modules are changed in place, so that parameters keep their names, which are the names in a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from model import TransformerModel
from train.config import MachineSection
from train.distributed.ranks import Ranks
from train.loss import ModelLoss
from train.precision import DTYPES, choose_precision


def parallelize(loss: ModelLoss, machine: MachineSection, ranks: Ranks) -> nn.Module:
    """The loss as the loop calls it, on this rank's device.

    Create the optimizers afterwards, because FSDP replaces the parameters.
    """
    loss.to(ranks.device)
    blocks = loss.model.model.layers
    if machine.recompute_activations:
        for block in blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    if machine.compile and _can_compile(ranks):
        loss.compile()
    if ranks.world_size == 1:
        return loss
    if machine.sharding == "fsdp":
        for block in blocks:
            fully_shard(block)
        return fully_shard(loss)
    # The only buffers are RoPE's tables, which are constants: there is nothing to broadcast.
    return DistributedDataParallel(loss, forward_sync_buffers=False, gradient_as_bucket_view=True)


def _can_compile(ranks: Ranks) -> bool:
    """Whether torch.compile works on every rank, tried on a small function; a warning where it does not.

    It needs a C++ compiler on a CPU, and Triton and a C compiler on a GPU. Without them it fails at the first step.
    """
    values = torch.ones(8, device=ranks.device, requires_grad=True)
    reason = ""
    try:
        with torch._inductor.config.patch(force_disable_caches=True):  # noqa: SLF001 - else an old result would do
            torch.compile(_probe)(values).backward()
    except Exception as error:  # noqa: BLE001 - whatever it is, the run can do without
        reason = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
    if ranks.all_reduce_max(int(bool(reason))):
        ranks.print_rank0(
            f"warning: machine.compile is ignored, because torch.compile fails here ({reason or 'on another rank'}); "
            "install a C++ compiler (g++), or set it to false"
        )
        return False
    return True


def _probe(values: Tensor) -> Tensor:
    return (values.sin() * values).sum()


@contextmanager
def forward_and_backward(loss: nn.Module, machine: MachineSection, ranks: Ranks, *, last: bool) -> Iterator[None]:
    """A context for the passes of a micro-batch: autocast, and gradients synchronized at a step's last one alone."""
    synchronization: AbstractContextManager[None] = nullcontext()
    if isinstance(loss, DistributedDataParallel) and not last:
        synchronization = loss.no_sync()
    with synchronization, autocast(machine, ranks):
        yield


def autocast(machine: MachineSection, ranks: Ranks) -> torch.autocast:
    """A context in which matrix products have the recipe's precision on this rank's device."""
    dtype = DTYPES.get(choose_precision(machine.precision, ranks.device))
    return torch.autocast(ranks.device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def reshard(loss: nn.Module) -> None:
    """Free the weights that FSDP leaves gathered after a forward pass that no backward pass follows."""
    if isinstance(loss, FSDPModule):
        loss.reshard()


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded over the ranks. All ranks must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def divide_gradients(model: nn.Module, divisor: float) -> None:
    """Divide all gradients by a number, in place."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    torch._foreach_div_(gradients, divisor)


@torch.no_grad()
def has_finite_weights(model: nn.Module, ranks: Ranks) -> bool:
    """Whether no weight on any rank is NaN or infinite. All ranks must call this."""
    parts = (weight.to_local() if isinstance(weight, DTensor) else weight for weight in model.parameters())
    return not ranks.all_reduce_max(int(not all(torch.isfinite(part).all() for part in parts)))


@torch.no_grad()
def full_model(model: TransformerModel, ranks: Ranks) -> TransformerModel | None:
    """The model with all its weights, on rank 0; None on the others. All ranks must call this.

    A model that is not sharded is returned itself; of a sharded one rank 0 gets a copy on the CPU.
    """
    if not isinstance(model.lm_head.weight, DTensor):
        return model if ranks.is_first else None
    copy = TransformerModel(model.config) if ranks.is_first else None
    targets = dict(copy.named_parameters()) if copy is not None else {}
    for name, parameter in model.named_parameters():
        gathered = full_tensor(parameter)
        if copy is not None:
            targets[name].copy_(gathered)
    return copy
