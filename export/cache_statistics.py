"""What a KV cache holds while a model writes: where its keys and values lie, and those of the first token.

Every token attends to the first one most (StreamingLLM, arXiv:2309.17453), so its key and value are kept apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model import ModelConfig
from model.attention import KVCache
from model.rotary import rotary_frequencies

# Directions in the plane of a pair, a full turn of them: a point between two is at most 0.03 % farther than seen.
DIRECTIONS = 128


@dataclass(frozen=True)
class CacheStatistics:
    """Keys by pairs of features that RoPE turns into each other, as they are before it; values rotated within heads.

    Attributes:
        reach: how far keys go in each of the `directions`, float32 [num_hidden_layers, num_key_value_heads,
            head_dim / 2, DIRECTIONS].
        mean_key: float32 [num_hidden_layers, num_key_value_heads, head_dim / 2, 2].
        values: the largest magnitudes of values less the mean first one, float32 [num_hidden_layers,
            num_key_value_heads, head_dim].
        first_keys: of tokens that a text begins with, float32 [num_hidden_layers, num_key_value_heads, tokens,
            head_dim / 2, 2].
        first_value: their mean, float32 [num_hidden_layers, num_key_value_heads, head_dim].
        tokens: of how many tokens the cache was.
    """

    reach: Tensor
    mean_key: Tensor
    values: Tensor
    first_keys: Tensor
    first_value: Tensor
    tokens: int

    @classmethod
    def of(cls, cache: KVCache, first: KVCache, config: ModelConfig) -> CacheStatistics:
        """What a model's own cache holds.

        Args:
            cache: of texts.
            first: of texts of one token.
            config: the model's.
        """
        layers = [_of_layer(cache, first, layer, config) for layer in range(config.num_hidden_layers)]
        tokens = cache.keys.shape[1] * cache.length
        return cls(*(torch.stack(parts) for parts in zip(*layers, strict=True)), tokens=tokens)

    @classmethod
    def around(cls, parts: Sequence[CacheStatistics]) -> CacheStatistics:
        """Several caches of about one size together, whose first tokens are the same."""
        reach, values = (torch.stack([getattr(part, name) for part in parts]).amax(0) for name in ("reach", "values"))
        mean_key = torch.stack([part.mean_key for part in parts]).mean(0)
        tokens = sum(part.tokens for part in parts)
        return cls(reach, mean_key, values, parts[0].first_keys, parts[0].first_value, tokens)


def angles() -> Tensor:
    """Those of the directions, from 0, float32 [DIRECTIONS]."""
    return torch.arange(DIRECTIONS) * (2 * math.pi / DIRECTIONS)


def directions() -> Tensor:
    """Unit vectors, float32 [2, DIRECTIONS]."""
    return torch.stack([angles().cos(), angles().sin()])


def rotation(head_dim: int) -> Tensor:
    """An orthogonal matrix that mixes features, float32 [head_dim, head_dim].

    Hadamard's, of the largest power of two that divides head_dim, for each of as many parts: all its entries have one
    size, so every feature of a part goes into every other one by the same share.
    """
    matrix, size = torch.ones(1, 1), head_dim & -head_dim
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)]) / 2**0.5
    return torch.block_diag(*[matrix] * (head_dim // size))


def pairs(x: Tensor, config: ModelConfig) -> Tensor:
    """[..., head_dim] -> [..., head_dim / 2, 2]: the features that RoPE turns into each other."""
    return x.unflatten(-1, (-1, 2)) if config.rope_interleaved else x.unflatten(-1, (2, -1)).mT


def unpaired(x: Tensor, config: ModelConfig) -> Tensor:
    """[..., head_dim / 2, 2] -> [..., head_dim], the reverse of `pairs`."""
    return (x if config.rope_interleaved else x.mT).flatten(-2)


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """[..., 2], turned by angles [...], counterclockwise."""
    (a, b), cos, sin = x.unbind(-1), angles.cos(), angles.sin()
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1)


def _of_layer(cache: KVCache, first: KVCache, layer: int, config: ModelConfig) -> tuple[Tensor, ...]:
    """The attributes of `CacheStatistics` for one layer: a copy of a whole cache would be large."""
    keys, first_keys = (_pairs_before_rope(part, layer, config) for part in (cache, first))
    values, first_values = (_rotated_values(part, layer) for part in (cache, first))
    first_value = first_values.mean(1)
    deviations = torch.cat([values, first_values], dim=1) - first_value.unsqueeze(1)
    reach = _reach(torch.cat([keys, first_keys], dim=1))
    return reach, keys.mean(1), deviations.abs().amax(1), first_keys, first_value


def _pairs_before_rope(cache: KVCache, layer: int, config: ModelConfig) -> Tensor:
    """[num_key_value_heads, tokens, head_dim / 2, 2]."""
    found = pairs(cache.keys[layer, :, :, : cache.length].transpose(0, 1), config)
    if config.has_rope(layer):
        found = turned(found, -torch.outer(torch.arange(cache.length).float(), rotary_frequencies(config)))
    return found.flatten(1, 2)


def _rotated_values(cache: KVCache, layer: int) -> Tensor:
    """[num_key_value_heads, tokens, head_dim]."""
    values = cache.values[layer, :, :, : cache.length].transpose(0, 1).flatten(1, 2)
    return values @ rotation(values.shape[-1])


def _reach(points: Tensor) -> Tensor:
    """[heads, points, pairs, 2] -> [heads, pairs, DIRECTIONS]: the largest projection on each direction."""
    axes = directions()[:, : DIRECTIONS // 2]
    projected = (head.transpose(0, 1) @ axes for head in points)
    return torch.stack([torch.cat([found.amax(1), -found.amin(1)], dim=-1) for found in projected])
