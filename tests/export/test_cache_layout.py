"""Keys and values laid out for steps of fixed size: none leaves them, few are idle, and the model stays the same."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from export.cache_layout import LARGEST, LARGEST_FACTOR, CacheLayout, LaidOutCheckpoint, key_shift
from export.cache_statistics import CacheStatistics, pairs, rotation, turned, unpaired
from export.calibration import Calibration
from model import ModelConfig, build_model
from model.attention import KVCache
from model.rope import RopeScaling
from model.rotary import RotaryPositionalEmbedding
from tests.export.graphs import BASE, CHANGES, make_checkpoint

TOKENS = 40
YARN = RopeScaling(
    rope_type="yarn", factor=2.0, original_max_position_embeddings=32, beta_fast=4.0, attention_factor=1.3
)
# What the features of a head go through on their way into the cache, in the configs that differ in it.
LAYOUTS = [
    {},
    {"rope_interleaved": True},
    {"rope_theta": 1e6, "max_position_embeddings": 2048, "head_dim": 32},
    {"head_dim": 8},
    {"qk_norm": True},
    {"no_rope_layers": (1, 0)},
    {"rope_scaling": YARN},
]


def caches(config, keys, values):
    """A cache that holds these keys before RoPE, and these values, [layers, rows, heads, length, head_dim] each.

    And one of texts of one token: the first of each row.
    """
    cache = KVCache(config, keys.shape[1], keys.shape[3])
    first = KVCache(config, keys.shape[1], 1)
    rotary = RotaryPositionalEmbedding(config)
    positions = torch.arange(keys.shape[3])[None]
    for layer, (key, value) in enumerate(zip(keys, values, strict=True)):
        rotated = key
        if config.has_rope(layer):
            rotated = rotary(key.transpose(1, 2), key.transpose(1, 2), positions)[1].transpose(1, 2)
        cache.append(layer, rotated, value)
        first.append(layer, rotated[:, :, :1], value[:, :, :1])
    cache.length, first.length = keys.shape[3], 1
    return cache, first


def numbers(config, rows=8):
    torch.manual_seed(0)
    shape = (config.num_hidden_layers, rows, config.num_key_value_heads, TOKENS, config.head_dim)
    return torch.randn(shape), torch.randn(shape)


def stored_keys(keys, layout, config, layer):
    """Keys before RoPE, [..., heads, n, head_dim], in steps as the cache holds them at each position: [positions, ...].

    A position in ten, and the last one.
    """
    places = torch.tensor([*range(0, config.max_position_embeddings, 10), config.max_position_embeddings - 1])
    rotary = RotaryPositionalEmbedding(config)
    turned_keys = turned(pairs(keys, config), layout.angles[layer].unsqueeze(-2))
    turned_keys = unpaired(turned_keys * layout.key_factors[layer, :, None, :, None], config)
    if config.has_rope(layer):
        at_all = turned_keys.flatten(0, -2)[None, :, None].expand(len(places), -1, -1, -1)
        turned_keys = rotary(at_all, at_all, places[:, None])[1].unflatten(1, keys.shape[:-1]).squeeze(-2)
    else:
        turned_keys = turned_keys[None]
    shift = torch.zeros(config.head_dim // 2, 2)
    shift[layout.is_shifted[layer], 0] = key_shift(config)
    return (turned_keys - unpaired(shift, config)) / layout.key_steps[layer].unsqueeze(-2)


@pytest.mark.parametrize("changes", LAYOUTS, ids=str)
def test_no_key_leaves_the_steps_at_any_position(changes):
    config = ModelConfig(**(BASE | changes))
    keys, values = numbers(config)
    layout = CacheLayout.of(CacheStatistics.of(*caches(config, keys, values), config), config)
    for layer in range(config.num_hidden_layers):
        stored = stored_keys(keys[layer], layout, config, layer)
        assert stored.abs().max() <= LARGEST
        ends = stored.abs().amax((0, 1, 3))  # of each head and feature
        assert ends.min() > LARGEST / 2.5  # the steps are used


def test_values_are_stored_less_the_first_one():
    config = ModelConfig(**BASE)
    keys, values = numbers(config)
    values[:, :, :, 0] = 50 + values[:, :, :, 0] / 100
    layout = CacheLayout.of(CacheStatistics.of(*caches(config, keys, values), config), config)
    rotated = values @ rotation(config.head_dim) * layout.value_factors[:, None, :, None]
    stored = (rotated - layout.first_value[:, None, :, None]) / layout.value_steps[:, None, :, None]
    assert stored[:, :, :, 0].abs().max() < 2
    assert stored.abs().max() <= LARGEST


def test_how_far_features_of_values_are_lifted():
    config = ModelConfig(**(BASE | {"head_dim": 6, "num_key_value_heads": 1, "num_hidden_layers": 1}))
    statistics = CacheStatistics.of(*caches(config, *numbers(config)), config)
    values = torch.tensor([[[8.0, 8.1, 4.1, 4.0, 0.001, 0.0]]])
    factors = CacheLayout.of(dataclasses.replace(statistics, values=values), config).value_factors
    lifted = [8.1 / 8, 1, 8.1 / 4.1, 8.1 / 4, LARGEST_FACTOR, LARGEST_FACTOR]
    assert factors.flatten().tolist() == pytest.approx(lifted)


def test_keys_far_from_zero_use_the_steps_on_both_sides():
    """All but the first token have nearly one key in a pair that hardly turns: what sets the first token apart."""
    config = ModelConfig(**(BASE | {"rope_theta": 1e6}))
    keys, values = numbers(config)
    slow = (config.head_dim // 2 - 1, config.head_dim - 1)
    far = torch.tensor([12.0, 5.0])
    keys[..., slow] = far + keys[..., slow]
    keys[:, :, :, 0, slow] /= 1000
    shifted = CacheLayout.of(CacheStatistics.of(*caches(config, keys, values), config), config)
    length = keys[..., slow].norm(dim=-1).max()
    steps = shifted.key_steps[..., slow] / shifted.key_factors[..., -1:]
    assert steps.amin(-1).max() < 0.45 * length / LARGEST  # across, where keys differ by their noise alone
    assert steps.amax(-1).max() < 0.9 * length / LARGEST  # along, from the first token's to the longest


def test_fewer_samples_leave_more_room():
    config = ModelConfig(**BASE)
    keys, values = numbers(config)
    statistics = CacheStatistics.of(*caches(config, keys, values), config)
    ends = [
        CacheLayout.of(dataclasses.replace(statistics, tokens=tokens), config).value_steps.mean().item()
        for tokens in (256, 4096, 16384, 10**9)
    ]
    assert [end / ends[-1] for end in ends] == pytest.approx([1.66, 1.35, 1.25, 1], abs=0.01)


def test_first_keys_lie_near_whole_steps():
    config = ModelConfig(**BASE)
    keys, values = numbers(config)
    keys[:, :, :, 0] = keys[:, :1, :, 0] + keys[:, :, :, 0] / 1000  # whichever the first token is
    layout = CacheLayout.of(CacheStatistics.of(*caches(config, keys, values), config), config)
    first = torch.stack([stored_keys(keys[n, :, :, :1], layout, config, n)[0] for n in range(len(keys))])
    assert (first - first.round()).abs().mean() < 0.15  # 0.25 where nothing is done for it


def test_a_cache_of_zeros_has_steps():
    config = ModelConfig(**BASE)
    nothing = torch.zeros(2, 1, config.num_key_value_heads, TOKENS, config.head_dim)
    layout = CacheLayout.of(CacheStatistics.of(*caches(config, nothing, nothing), config), config)
    for steps in (layout.key_steps, layout.value_steps):
        assert (steps == 1).all()
    assert (layout.key_factors == 1).all()
    assert not layout.first_value.any()


def test_several_caches_together_reach_as_far_as_each():
    config = ModelConfig(**BASE)
    keys, values = numbers(config)
    whole = CacheStatistics.of(*caches(config, keys, values), config)
    first = caches(config, keys, values)[1]
    parts = [
        CacheStatistics.of(caches(config, keys[:, rows], values[:, rows])[0], first, config)
        for rows in (slice(0, 4), slice(4, 8))
    ]
    together = CacheStatistics.around(parts)
    assert together.tokens == whole.tokens == 8 * TOKENS
    for name in ("reach", "mean_key", "values", "first_keys", "first_value"):
        torch.testing.assert_close(getattr(together, name), getattr(whole, name))


def test_the_reach_is_the_projection_on_each_direction():
    config = ModelConfig(**BASE)
    keys, values = numbers(config, rows=1)
    reach = CacheStatistics.of(*caches(config, keys, values), config).reach
    directions = torch.arange(reach.shape[-1]) * (2 * math.pi / reach.shape[-1])
    for pair in (0, config.head_dim // 2 - 1):
        points = keys[0, 0, 1, :, [pair, pair + config.head_dim // 2]]
        expected = [(points @ torch.stack([angle.cos(), angle.sin()])).max() for angle in directions]
        torch.testing.assert_close(reach[0, 1, pair], torch.stack(expected))


@pytest.mark.parametrize("head_dim", [6, 8, 25, 64, 100])
def test_a_rotation_is_orthogonal_and_mixes_evenly(head_dim):
    matrix = rotation(head_dim)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(head_dim))
    entries = matrix.abs()[matrix != 0]
    torch.testing.assert_close(entries, torch.full_like(entries, (head_dim & -head_dim) ** -0.5))


@pytest.mark.parametrize("changes", [*CHANGES, *LAYOUTS], ids=str)
def test_the_laid_out_model_is_the_model(changes, tmp_path):
    checkpoint, model = make_checkpoint(tmp_path, changes)
    calibration = Calibration(checkpoint, tokens=256, progress=False)
    layout = CacheLayout.of(calibration.cache_statistics, checkpoint.config)
    laid_out = build_model(LaidOutCheckpoint(checkpoint, layout))
    ids = torch.randint(3, 96, (1, 30))
    with torch.inference_mode():
        expected, found = model(ids), laid_out(ids)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert not torch.equal(found, expected)
