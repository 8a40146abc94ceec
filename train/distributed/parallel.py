"""How a model lies on its devices: compiled or not, copied to each (DDP) or split over them (FSDP2).

All of it works in place, module by module, so that parameters keep their names, which are a checkpoint's.
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
from train.loss import NextTokenLoss


def place(loss: NextTokenLoss, machine: MachineSection, ranks: Ranks) -> nn.Module:
    """The loss as the loop calls it, on this rank's device.

    Make the optimizers afterwards, for FSDP replaces the parameters.
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
    # RoPE's tables, the only buffers, are constants: nothing to broadcast.
    return DistributedDataParallel(loss, forward_sync_buffers=False, gradient_as_bucket_view=True)


@contextmanager
def forward_and_backward(loss: nn.Module, machine: MachineSection, ranks: Ranks, *, last: bool) -> Iterator[None]:
    """Around the passes of a micro-batch: autocast, and no exchange of gradients before a step's last micro-batch."""
    keep_to_oneself: AbstractContextManager[None] = nullcontext()
    if isinstance(loss, DistributedDataParallel) and not last:
        keep_to_oneself = loss.no_sync()
    with keep_to_oneself, autocast(machine, ranks):
        yield


def autocast(machine: MachineSection, ranks: Ranks) -> torch.autocast:
    """Matrix products in bfloat16, where the recipe says so."""
    return torch.autocast(ranks.device.type, torch.bfloat16, enabled=machine.precision == "bf16")


def split_again(loss: nn.Module) -> None:
    """After a forward pass without a backward one: FSDP leaves the outermost weights gathered, for the backward."""
    if isinstance(loss, FSDPModule):
        loss.reshard()


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be split over the ranks as one that is not. All ranks must call this, and wait for all."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def whole_model(model: TransformerModel, ranks: Ranks) -> TransformerModel | None:
    """The model with all its weights: itself, or where it is split a copy on the CPU of rank 0, and None elsewhere.

    All ranks must call this.
    """
    if not isinstance(model.lm_head.weight, DTensor):
        return model if ranks.is_first else None
    copy = TransformerModel(model.config) if ranks.is_first else None
    targets = dict(copy.named_parameters()) if copy is not None else {}
    for name, parameter in model.named_parameters():
        gathered = whole(parameter)
        if copy is not None:
            targets[name].copy_(gathered)
    return copy
