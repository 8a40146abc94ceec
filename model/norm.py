"""RMSNorm, and its gradient written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class RMSNorm(nn.Module):
    """`weight * x / sqrt(mean(x^2) + eps)`, computed in float32 (Zhang & Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden_size] -> [..., hidden_size], dtype kept."""
        is_trained = torch.is_grad_enabled() and not torch.compiler.is_compiling()  # a compiler fuses what stands below
        if is_trained and x.dtype == self.weight.dtype == torch.float32:
            normed: Tensor = _TrainedRMSNorm.apply(x, self.weight, self.eps)
            return normed
        normalized = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normalized.to(x.dtype)


class _TrainedRMSNorm(torch.autograd.Function):
    """The same numbers as `RMSNorm.forward`, with a third of the passes over memory in forward and backward together.

    With r = 1 / sqrt(mean(x^2) + eps) and n = x r, the gradient of x is r (g w - n mean(g w n)), that of w sum(g n).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x float32 [..., hidden_size], weight float32 [hidden_size] -> x's shape."""
        scale = x.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        normalized = x * scale
        ctx.save_for_backward(normalized, scale, weight)
        return weight * normalized

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """The gradients of x and of the weight."""
        normalized, scale, weight = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        grad_x = grad_weight = None
        if needs_weight:
            grad_weight = (grad * normalized).flatten(0, -2).sum(0)
        if needs_x:
            grad_normalized = grad * weight
            share = torch.linalg.vecdot(grad_normalized, normalized).unsqueeze(-1).div_(normalized.shape[-1])
            grad_x = grad_normalized.addcmul_(normalized, share, value=-1).mul_(scale)
        return grad_x, grad_weight, None
