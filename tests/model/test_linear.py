"""Products by oneDNN are PyTorch's own, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from model import linear as linear_module
from model.linear import Linear, linear, suits_onednn


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU that wants it; every build of PyTorch with oneDNN can compute it."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(linear_module, "prefers_onednn", lambda: True)


def factors(*shape: int, out_features: int = 24) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    tensors = [torch.randn(size, generator=generator) for size in (shape, (out_features, shape[-1]), (out_features,))]
    x, weight, bias = (tensor.requires_grad_() for tensor in tensors)
    return x, weight, bias


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("shape", [(32, 16), (2, 20, 48), (3, 2, 17, 5)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_values_and_gradients_are_those_of_f_linear(shape: tuple[int, ...], has_bias: bool) -> None:
    x, weight, bias = factors(*shape)
    inputs = (x, weight, bias) if has_bias else (x, weight)
    assert suits_onednn(x, weight)
    ours, theirs = linear(*inputs), F.linear(*inputs)
    torch.testing.assert_close(ours, theirs)
    gradients = torch.autograd.grad(ours.sin().sum(), inputs), torch.autograd.grad(theirs.sin().sum(), inputs)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.usefixtures("onednn")
def test_a_transposed_factor_is_no_other_number() -> None:
    x, weight, _ = factors(40, 16)
    wide = torch.randn(40, 24)
    torch.testing.assert_close(linear(wide, weight.T), wide @ weight)
    torch.testing.assert_close(linear(wide.T, x.T), wide.T @ x)


@pytest.mark.usefixtures("onednn")
def test_frozen_weights_get_no_gradient() -> None:
    layer = Linear(16, 24)
    layer.weight.requires_grad_(False)
    x = torch.randn(32, 16, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(32, 16))


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_and_single_tokens_are_left_to_pytorch(dtype: torch.dtype) -> None:
    weight = torch.randn(24, 16)
    assert not suits_onednn(torch.randn(1, 16), weight)
    assert not suits_onednn(torch.randn(32, 16, dtype=dtype), weight.to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(torch.randn(32, 16), weight).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("cpu", "is_intel"), [("vendor_id\t: GenuineIntel\n", True), ("vendor_id\t: AuthenticAMD", False)]
)
def test_the_maker_of_the_cpu_is_read(cpu: str, is_intel: bool, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(cpu)
    monkeypatch.setattr(linear_module, "CPUINFO", tmp_path / "cpuinfo")
    assert linear_module._is_intel() == is_intel
