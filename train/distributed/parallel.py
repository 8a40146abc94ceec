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


def parallelize(loss: ModelLoss, machine: MachineSection, ranks: Ranks) -> nn.Module:
    """The loss as the loop calls it, on this rank's device.

    Create the optimizers afterwards, because FSDP replaces the parameters.
    """
    loss.to(ranks.device)
    blocks = loss.model.model.layers
    if machine.recompute_activations:
        for block in blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    if machine.compile:
        loss.compile()
    if ranks.world_size == 1:
        return loss
    if machine.sharding == "fsdp":
        for block in blocks:
            fully_shard(block)
        return fully_shard(loss)
    # The only buffers are RoPE's tables, which are constants: there is nothing to broadcast.
    return DistributedDataParallel(loss, forward_sync_buffers=False, gradient_as_bucket_view=True)


@contextmanager
def forward_and_backward(loss: nn.Module, machine: MachineSection, ranks: Ranks, *, last: bool) -> Iterator[None]:
    """A context for the passes of a micro-batch: autocast, and gradients synchronized at a step's last one alone."""
    synchronization: AbstractContextManager[None] = nullcontext()
    if isinstance(loss, DistributedDataParallel) and not last:
        synchronization = loss.no_sync()
    with synchronization, autocast(machine, ranks):
        yield


def autocast(machine: MachineSection, ranks: Ranks) -> torch.autocast:
    """A context in which matrix products are in bfloat16, where the recipe asks for it."""
    return torch.autocast(ranks.device.type, torch.bfloat16, enabled=machine.precision == "bf16")


def reshard(loss: nn.Module) -> None:
    """Free the weights that FSDP leaves gathered after a forward pass that no backward pass follows."""
    if isinstance(loss, FSDPModule):
        loss.reshard()


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded over the ranks. All ranks must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


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
