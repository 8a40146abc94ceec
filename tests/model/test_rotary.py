"""The rotation with its written-out gradient is the rotation."""

import pytest
import torch

from model.config import ModelConfig
from model.rotary import RotaryPositionalEmbedding, _TrainedRotation, rotated


def rotary(**changes):
    shape = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 32}
    return RotaryPositionalEmbedding(ModelConfig.from_preset("tiny").replace(**shape, **changes))


@pytest.fixture
def states():
    """Queries of four heads and keys of two: [batch, sequence, heads, head_dim]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 5, 4, 8, generator=generator), torch.randn(3, 5, 2, 8, generator=generator)


@pytest.mark.parametrize("interleaved", [False, True])
def test_it_is_a_product_of_complex_numbers(states, interleaved):
    module, positions = rotary(rope_interleaved=interleaved), torch.arange(7, 12).expand(3, 5)
    angles = positions[0, :, None] / module.config.rope_theta ** (torch.arange(0, 8, 2) / 8)
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]
    for x, found in zip(states, module(*states, positions), strict=True):
        pairs = x.unflatten(-1, (4, 2)) if interleaved else x.unflatten(-1, (2, 4)).transpose(-1, -2)
        turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turn)
        expected = turned if interleaved else turned.transpose(-1, -2)
        torch.testing.assert_close(found, expected.flatten(-2), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rows_that_share_their_positions_are_rotated_as_by_their_own(states, interleaved):
    module, positions = rotary(rope_interleaved=interleaved), torch.arange(5).expand(3, 5)
    torch.testing.assert_close(module(*states, positions), module(*states, positions.clone()), rtol=0, atol=0)


@pytest.mark.parametrize("interleaved", [False, True])
def test_it_computes_the_same_bits_with_and_without_gradients(states, interleaved):
    module, positions = rotary(rope_interleaved=interleaved), torch.arange(5).expand(3, 5)
    trained = module(*(x.clone().requires_grad_() for x in states), positions)
    assert all(x.requires_grad for x in trained)
    with torch.no_grad():
        torch.testing.assert_close(module(*states, positions), trained, rtol=0, atol=0)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("positions", [torch.arange(5)[None], torch.arange(15).view(3, 5)], ids=["shared", "own"])
def test_its_gradient_is_that_of_the_plain_formula(states, interleaved, positions):
    module, x = rotary(rope_interleaved=interleaved), states[0].double().requires_grad_()
    tables = [table[positions].unsqueeze(2).double() for table in (module.cos, module.sin)]
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    ours, theirs = (
        torch.autograd.grad(function(x, *tables, interleaved), x, grad)
        for function in (_TrainedRotation.apply, rotated)
    )
    torch.testing.assert_close(ours, theirs)
    assert torch.autograd.gradcheck(_TrainedRotation.apply, (x, *tables, interleaved))
