"""Linear layers, with the matrix products of float32 that suit the CPU.

PyTorch hands products of float32 to MKL, which has no AVX-512 kernels for CPUs of another maker than Intel: there
oneDNN, which PyTorch carries too, takes half the time. The numbers are float32's in both; the order of sums differs.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CPUINFO = Path("/proc/cpuinfo")
# Products of fewer rows wait for the weights from memory, whoever computes them.
FEWEST_ROWS = 16


class Linear(nn.Linear):
    """`nn.Linear` by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: x [..., in_features], weight [out_features, in_features], bias [out_features] -> [..., out_features].

    Its gradients are of first order alone where oneDNN computes it.
    """
    if not suits_onednn(x, weight):
        return F.linear(x, weight, bias)
    product: Tensor = _Product.apply(x, weight)
    return product if bias is None else product + bias


def suits_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether `linear` takes oneDNN for these factors."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.numel() >= FEWEST_ROWS * x.shape[-1]
        and not torch.compiler.is_compiling()  # a compiler chooses its own
        and not torch.is_autocast_enabled("cpu")
        and prefers_onednn()
    )


@functools.cache
def prefers_onednn() -> bool:
    """Whether oneDNN's products of float32 are the faster ones on this CPU."""
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and not _is_intel()
    )


def _is_intel() -> bool:
    try:
        return "GenuineIntel" in CPUINFO.read_text(encoding="utf-8")
    except OSError:  # no Linux
        return "GenuineIntel" in platform.processor()


class _Product(torch.autograd.Function):
    """x @ weight.T by oneDNN, and its gradients by oneDNN too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """x [..., in_features], weight [out_features, in_features] -> [..., out_features]."""
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of x and of the weight."""
        x, weight = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad
        grad_x = _onednn(grad, weight.T) if needs_x else None
        grad_weight = _onednn(grad.flatten(0, -2).T, x.flatten(0, -2).T) if needs_weight else None
        return grad_x, grad_weight


def _onednn(x: Tensor, weight: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")  # noqa: SLF001 - what its compiler calls
    return product
