"""RMSNorm with its written-out gradient is RMSNorm."""

import pytest
import torch

from model.norm import RMSNorm, _TrainedRMSNorm


@pytest.fixture
def norm():
    norm = RMSNorm(32, 1e-5)
    with torch.no_grad():
        norm.weight.normal_(1.0, 0.3, generator=torch.Generator().manual_seed(0))
    return norm


@pytest.fixture
def x():
    return torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(1))


def plain(norm, x):
    return norm.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.eps))


def test_it_computes_the_same_bits_with_and_without_gradients(norm, x):
    trained = norm(x)
    assert trained.requires_grad
    with torch.no_grad():
        assert torch.equal(norm(x), trained)
    assert torch.equal(plain(norm, x), trained)


def test_its_gradients_are_those_of_the_plain_formula(norm, x):
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    x.requires_grad_()
    ours, theirs = (
        torch.autograd.grad(function(x), (x, norm.weight), grad) for function in (norm, lambda x: plain(norm, x))
    )
    torch.testing.assert_close(ours, theirs)


def test_its_gradients_are_finite_differences(norm, x):
    inputs = (x[:1].double().requires_grad_(), norm.weight.detach().double().requires_grad_(), norm.eps)
    assert torch.autograd.gradcheck(_TrainedRMSNorm.apply, inputs)


def test_a_weight_that_stands_still_gets_no_gradient(norm, x):
    norm.weight.requires_grad_(requires_grad=False)
    x.requires_grad_()
    norm(x).sum().backward()
    assert x.grad is not None
    assert norm.weight.grad is None


def test_other_dtypes_take_the_plain_formula(norm, x):
    rough = norm(x.bfloat16())
    assert rough.dtype == torch.float32  # of the weight
    torch.testing.assert_close(rough, plain(norm, x), rtol=0.02, atol=0.02)
