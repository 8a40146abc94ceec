"""AdamW (arXiv:1711.05101), and Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for the blocks' matrices.

Muon replaces the momentum of a matrix by the nearest orthogonal matrix, so that all its directions learn at the same
speed. It is meant for maps between hidden states: the vocabulary table, the head and all vectors use AdamW. Updates
are scaled by 0.2 sqrt(max(rows, columns)), which gives them the size of AdamW's (arXiv:2502.16982), so both optimizers
share one learning rate and one weight decay.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from train.config import OptimizerSection

Group = dict[str, list[Tensor] | float]


def build_optimizers(model: nn.Module, config: OptimizerSection) -> tuple[Optimizer, ...]:
    """The optimizers of a model's parameters. Each parameter is in exactly one of them; a tied head counts once.

    Their moments exist from the start and are zero, so a state saved before the first step has the same tensors as any
    later one.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    muon = [parameter for name, parameter in named if config.name == "muon" and _is_hidden_matrix(name, parameter)]
    theirs = {id(parameter) for parameter in muon}
    rest = [parameter for _, parameter in named if id(parameter) not in theirs]
    groups = decay_groups(rest, config.weight_decay)
    optimizers: list[Optimizer] = [AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)]
    if muon:
        decay, momentum = config.weight_decay, config.momentum
        optimizers.append(
            Muon(muon, lr=config.lr, weight_decay=decay, momentum=momentum, adjust_lr_fn="match_rms_adamw")
        )
    for optimizer in optimizers:
        _make_moments(optimizer)
    return tuple(optimizers)


def decay_groups(parameters: list[nn.Parameter], weight_decay: float) -> list[Group]:
    """Parameters in two groups: matrices decay; gains and biases do not, for a norm's gain is meant to be near 1."""
    matrices: list[Tensor] = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors: list[Tensor] = [parameter for parameter in parameters if parameter.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 2 and "layers." in name


def _make_moments(optimizer: Optimizer) -> None:
    """Create the tensors that an optimizer creates at its first step, by a step with zero gradients and rate 0."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for moments in optimizer.state.values():
        for moment in moments.values():
            moment.zero_()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
