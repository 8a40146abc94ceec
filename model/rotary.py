"""Rotary positions (RoPE, arXiv:2104.09864): frequencies, their scaling for long contexts, and the rotation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model.config import ModelConfig
from model.rope import RopeScaling


class RotaryPositionalEmbedding(nn.Module):
    """Rotates pairs of features by an angle that grows with the position.

    Pair i of a head turns by `position * theta^(-2i / head_dim)`, or by a scaled frequency (`rotary_frequencies`).
    Half-split (Hugging Face's layout) pairs feature i with i + head_dim/2; interleaved (the paper's layout) pairs 2i
    with 2i + 1. The tables are float32 and are not stored in checkpoints.
    """

    cos: Tensor  # [max_position_embeddings, head_dim]
    sin: Tensor  # with the sign of each feature's partner

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.interleaved = config.rope_interleaved
        self.is_dynamic = config.has_dynamic_rope
        # Angles that depend on the length of the text are computed at every call.
        cos, sin = self._tables(torch.empty(0, config.head_dim // 2) if self.is_dynamic else rotary_angles(config))
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, query: Tensor, key: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Both rotated.

        query [batch, sequence, heads, head_dim], key [batch, sequence, kv_heads, head_dim], position_ids
        [batch, sequence] -> the same shapes.
        """
        if position_ids.stride(0) == 0:
            position_ids = position_ids[:1]  # all rows have the same
        if self.is_dynamic:
            cos, sin = self._tables(dynamic_angles(self.config, position_ids))
        else:
            cos, sin = self.cos[position_ids], self.sin[position_ids]
        cos, sin = (table.unsqueeze(2).to(query.dtype) for table in (cos, sin))  # [batch or 1, sequence, 1, head_dim]
        is_trained = torch.is_grad_enabled() and not torch.compiler.is_compiling()  # a compiler fuses the plain formula
        rotate = _TrainedRotation.apply if is_trained else rotated
        return rotate(query, cos, sin, self.interleaved), rotate(key, cos, sin, self.interleaved)

    def _tables(self, angles: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines of angles [..., head_dim / 2], for each feature of a head: [..., head_dim]."""
        factor = self.config.rope_attention_factor
        cos, sin = angles.cos() * factor, angles.sin() * factor
        if self.interleaved:
            return torch.stack((cos, cos), -1).flatten(-2), torch.stack((-sin, sin), -1).flatten(-2)
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def rotated(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """x [batch, sequence, heads, head_dim] with each pair turned; tables of `RotaryPositionalEmbedding`."""
    return x * cos + _partners(x, interleaved) * sin


def _partners(x: Tensor, interleaved: bool) -> Tensor:
    """Each feature's place taken by the other one of its pair."""
    return x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) if interleaved else x.roll(x.shape[-1] // 2, -1)


class _TrainedRotation(torch.autograd.Function):
    """`rotated`, whose gradient is the rotation by the opposite angle: half of the passes over memory, nothing kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
        """As `rotated`."""
        ctx.save_for_backward(cos, sin)
        ctx.interleaved = interleaved
        return (x * cos).add_(_partners(x, interleaved).mul_(sin))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient of x."""
        cos, sin = ctx.saved_tensors
        return (grad * cos).sub_(_partners(grad, ctx.interleaved).mul_(sin)), None, None, None


def rotary_angles(config: ModelConfig) -> Tensor:
    """By how much each pair turns at each position, in radians: float32 [max_position_embeddings, head_dim / 2]."""
    positions = torch.arange(config.max_position_embeddings, dtype=torch.int64).float()
    return torch.outer(positions, rotary_frequencies(config))


def dynamic_angles(config: ModelConfig, position_ids: Tensor) -> Tensor:
    """The angles of rope_type dynamic, float32 [batch, sequence, head_dim / 2].

    The base of a row follows from its length after this call: its last position plus one.
    """
    scaling = config.rope_scaling
    if scaling is None:
        raise ValueError("only a config with rope_scaling has angles that depend on the length")
    lengths = position_ids.amax(-1, keepdim=True).float() + 1
    growth = scaling.factor * lengths.clamp(min=scaling.original_max_position_embeddings)
    growth = growth / scaling.original_max_position_embeddings - (scaling.factor - 1)
    base = config.rope_theta * growth ** (config.head_dim / (config.head_dim - 2))  # [batch, 1]
    frequencies = 1.0 / base ** _exponents(config).to(base.device)  # [batch, head_dim / 2]
    return position_ids.float().unsqueeze(-1) * frequencies.unsqueeze(-2)


def rotary_frequencies(config: ModelConfig) -> Tensor:
    """Radians per position of each pair, float32 [head_dim / 2]; rope_type dynamic within its original context."""
    plain = 1.0 / config.rope_theta ** _exponents(config)
    scaling = config.rope_scaling
    if scaling is None or scaling.rope_type == "dynamic":
        return plain
    if scaling.rope_type == "linear":
        return plain / scaling.factor
    if scaling.rope_type == "llama3":
        return _llama3_frequencies(plain, scaling)
    return _yarn_frequencies(plain, scaling, config)


def _exponents(config: ModelConfig) -> Tensor:
    return torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim


def _llama3_frequencies(plain: Tensor, scaling: RopeScaling) -> Tensor:
    """Long wavelengths are divided by `factor`, short ones stay, those between are interpolated (Llama 3.1)."""
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    rotations = scaling.original_max_position_embeddings * plain / (2 * math.pi)  # over the original context
    smooth = ((rotations - low) / (high - low)).clamp(0, 1)
    return (1 - smooth) * plain / scaling.factor + smooth * plain


def _yarn_frequencies(plain: Tensor, scaling: RopeScaling, config: ModelConfig) -> Tensor:
    """A ramp over the dimensions from the plain frequencies to those divided by `factor` (arXiv:2309.00071, 3.2)."""

    def dimension(rotations: float) -> float:
        """Where a pair turns so often over the original context."""
        wavelengths = scaling.original_max_position_embeddings / (rotations * 2 * math.pi)
        return config.head_dim * math.log(wavelengths) / (2 * math.log(config.rope_theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.head_dim - 1)
    if low == high:
        high += 0.001  # a step instead of a ramp
    ramp = ((torch.arange(config.head_dim // 2).float() - low) / (high - low)).clamp(0, 1)
    return plain / scaling.factor * ramp + plain * (1 - ramp)
