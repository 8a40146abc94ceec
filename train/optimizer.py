"""AdamW (arXiv:1711.05101), with weight decay on matrices alone."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim import AdamW

from train.config import OptimizerSection


def build_optimizer(model: nn.Module, config: OptimizerSection) -> AdamW:
    """The optimizer of a model's parameters, a tied head counted once."""
    return AdamW(decay_groups(model, config.weight_decay), lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, list[Tensor] | float]]:
    """Parameters in two groups: matrices, which decay, and gains and biases, which do not.

    To pull a norm's gain towards zero would fight what it is for.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
