"""How keys and values lie in a cache of int8: turned, scaled and shifted so that its steps are fine where they count.

onnxruntime's steps are fixed and alike on both sides of zero. Three things make the best of them, and none changes what
the model computes:

- RoPE turns pairs of features. A pair may be turned by a fixed angle before it, in k_proj and in q_proj alike, and made
  longer in one and shorter in the other. Slow pairs never come round within the context, so there is an angle at which
  they fill the fewest steps.
- softmax stays the same when one vector is subtracted from all keys. In such pairs most models give every token but the
  first nearly one key, far from zero, which tells the first token from the rest: half of the steps would lie idle.
- Attention gives weights that sum to one, so what is subtracted from all values can be given back to their mean. That
  of the first token is: most tokens attend to it most, and its error would be theirs.

Values are rotated within their head before (QuaRot, arXiv:2404.00456): a feature that is large in a few tokens is then
spread over all. `int8_cache.py` puts the subtractions into the graph that has the cache; turning, scaling and
rotating are in the weights, which all graphs so can share.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from export.cache_statistics import (
    DIRECTIONS,
    CacheStatistics,
    angles,
    directions,
    pairs,
    rotation,
    turned,
    unpaired,
)
from export.operators import has_fused_rotary
from model import ModelConfig, WeightSource
from model.rotary import rotary_frequencies

LARGEST = 127
# The steps hold what so many tokens of other texts bring: cutting something off costs far more than coarser steps.
TOKENS_TO_HOLD = 4e6
# Steps may be this much wider if the first key then lies on a whole number of them; its error counts by its weight
# beside those of all other keys together.
STRETCHES, FIRST_WEIGHT = torch.linspace(1, 1.4, 21), 0.5
# Features of values are lifted by this at most: one that was still in the samples may move in another text.
LARGEST_FACTOR = 64.0
# What is subtracted is at least such a share of what a feature spans, so that factors stay within reason.
SMALLEST_SHIFT = 1 / 64
ATTENTION = re.compile(r"model\.layers\.(\d+)\.self_attn\.(\w+)(?:\.(weight|bias))?")


@dataclass(frozen=True)
class CacheLayout:
    """Where keys and values lie, float32; axes are [num_hidden_layers, num_key_value_heads, ...].

    Attributes:
        angles: by which pairs are turned, [..., head_dim / 2].
        key_factors: by which they are multiplied, [..., head_dim / 2].
        is_shifted: the pairs from whose first feature `key_shift(config)` is subtracted, bool [num_hidden_layers,
            head_dim / 2].
        key_steps: of each feature, [..., head_dim].
        value_factors: by which rotated values are multiplied, [..., head_dim].
        first_value: what is subtracted from them then, [..., head_dim].
        value_steps: of each feature, [..., head_dim].
    """

    angles: Tensor
    key_factors: Tensor
    is_shifted: Tensor
    key_steps: Tensor
    value_factors: Tensor
    first_value: Tensor
    value_steps: Tensor

    @classmethod
    def of(cls, statistics: CacheStatistics, config: ModelConfig) -> CacheLayout:
        """The layout for a model whose cache held this."""
        is_shifted, spans = _shifted_pairs(config), _spans(config)
        factors, headroom = _even_factors(statistics.values), _headroom(statistics.tokens)
        mean = statistics.mean_key @ directions()
        reach = mean + headroom * (statistics.reach - mean)
        parts = zip(reach, statistics.first_keys, is_shifted, spans, strict=True)
        layers = [_key_layout(*part, config) for part in parts]
        turns, key_factors, key_steps = (torch.stack(of_all) for of_all in zip(*layers, strict=True))
        return cls(
            angles=turns,
            key_factors=key_factors,
            is_shifted=is_shifted,
            key_steps=key_steps,
            value_factors=factors,
            first_value=statistics.first_value * factors,
            value_steps=_steps(headroom * statistics.values * factors),
        )


class LaidOutCheckpoint:
    """A source of weights seen with keys turned and scaled, values rotated and scaled: the same function.

    Args:
        weights: of the model.
        layout: of its cache.
    """

    folded = "keys turned and scaled by pairs, values rotated within heads and of one size"

    def __init__(self, weights: WeightSource, layout: CacheLayout) -> None:
        self._weights = weights
        self._layout = layout
        self.config = config = weights.config
        self.shapes = weights.shapes
        self._rotation = rotation(config.head_dim)
        self._readers = config.num_attention_heads // config.num_key_value_heads
        # By layer, of the inputs of o_proj.
        self._attended = layout.value_factors.repeat_interleave(self._readers, dim=1).flatten(1)

    def input_moment(self, name: str, moment: Tensor) -> Tensor:
        """The inputs of `o_proj` are rotated and scaled as the values are; those of others stay."""
        found = ATTENTION.fullmatch(name)
        if found is None or found[2] != "o_proj":
            return moment
        factor = self._attended[int(found[1])]
        half = self._rotated(moment).T  # M R, then the same from the other side: R^T M R
        return self._rotated(half) * factor.outer(factor)

    def tensor(self, name: str) -> Tensor:
        """`WeightSource.tensor`, laid out."""
        tensor = self._weights.tensor(name)
        found = ATTENTION.fullmatch(name)
        if found is None:
            return tensor
        layer, projection, kind = int(found[1]), found[2], found[3]
        if projection == "o_proj" and kind == "weight":
            return self._rotated(tensor) / self._attended[layer]
        outputs = tensor.movedim(0, -1)  # of a matrix and of a bias
        if projection == "v_proj":
            return (self._rotated(outputs) * self._layout.value_factors[layer].flatten()).movedim(-1, 0)
        if self.config.qk_norm or projection not in ("q_proj", "k_proj"):
            return tensor
        turns, factors = self._layout.angles[layer], self._layout.key_factors[layer]
        if projection == "q_proj":
            turns, factors = (x.repeat_interleave(self._readers, dim=0) for x in (turns, 1 / factors))
        by_head = pairs(outputs.unflatten(-1, (-1, self.config.head_dim)), self.config)
        return unpaired(turned(by_head, turns) * factors.unsqueeze(-1), self.config).flatten(-2).movedim(-1, 0)

    def _rotated(self, rows: Tensor) -> Tensor:
        """Each head's part of the last axis, rotated: [..., heads * head_dim]."""
        return (rows.unflatten(-1, (-1, self.config.head_dim)) @ self._rotation).flatten(-2)


def key_shift(config: ModelConfig) -> float:
    """What is subtracted from the first feature of a shifted pair in the cache: there, keys are scaled to suit it.

    It is RoPE of RoPE's own cosines and sines (`int8_cache.py`), which some scalings multiply by a factor.
    """
    return config.rope_attention_factor**2


def _shifted_pairs(config: ModelConfig) -> Tensor:
    """Bool [num_hidden_layers, head_dim / 2]: those that come less than half round, where attention applies RoPE."""
    can_shift = has_fused_rotary(config) and not config.qk_norm
    has_rope = torch.tensor([config.has_rope(layer) for layer in range(config.num_hidden_layers)])
    return (_spans(config) < math.pi) & has_rope.unsqueeze(1) & can_shift


def _spans(config: ModelConfig) -> Tensor:
    """How far pairs turn within the context, in radians, float32 [num_hidden_layers, head_dim / 2]."""
    span = rotary_frequencies(config) * (config.max_position_embeddings - 1)
    if config.has_dynamic_rope:  # the frequencies of longer texts differ
        span = torch.full_like(span, 2 * math.pi)
    return torch.stack([span * config.has_rope(layer) for layer in range(config.num_hidden_layers)])


def _key_layout(
    reach: Tensor, first: Tensor, is_shifted: Tensor, spans: Tensor, config: ModelConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Of one layer: angles and factors, [heads, pairs] each, and steps, [heads, head_dim]."""
    half_turn, quarter_turn = DIRECTIONS // 2, DIRECTIONS // 4
    # [heads, pairs, DIRECTIONS]: how far the first feature goes to both sides, by the direction that is turned onto it.
    high = _over_positions(reach, spans)
    low = -high.roll(half_turn, -1)
    centre = torch.maximum((high + low) / 2, (high - low) / 2 * SMALLEST_SHIFT) * is_shifted.unsqueeze(1)
    ends = torch.stack(
        [torch.maximum(high - centre, centre - low), torch.maximum(high, -low).roll(-quarter_turn, -1)], dim=-1
    )
    best = ends.square().sum(-1).argmin(-1, keepdim=True)
    if config.qk_norm:  # one norm serves all heads, feature by feature
        best.zero_()
    centre = centre.gather(-1, best).squeeze(-1)
    ends = ends.gather(-2, best.unsqueeze(-1).expand(-1, -1, -1, 2)).squeeze(-2)
    turns = -angles()[best.squeeze(-1)]
    factors = torch.where(centre > 0, key_shift(config) / centre, 1.0)
    shift = torch.stack([centre, torch.zeros_like(centre)], -1)
    stored = (turned(first.transpose(0, 1), turns) - shift) * factors.unsqueeze(-1)  # [tokens, heads, pairs, 2]
    steps = _whole_steps(_steps(ends * factors.unsqueeze(-1)), stored)
    return turns, factors, unpaired(steps, config)


def _over_positions(reach: Tensor, spans: Tensor) -> Tensor:
    """[heads, pairs, DIRECTIONS]: the farthest in each direction while RoPE turns keys through the whole span."""
    places = torch.arange(DIRECTIONS)
    behind = (places.unsqueeze(1) - places) % DIRECTIONS  # of the direction where it is now, from that where it was
    passed = (spans * (DIRECTIONS / (2 * math.pi))).ceil()
    is_passed = behind <= passed[:, None, None]  # [pairs, now, before]
    return torch.where(is_passed, reach.unsqueeze(-2), -torch.inf).amax(-1)


def _headroom(tokens: int) -> float:
    """How much farther from their mean the farthest of `TOKENS_TO_HOLD` lie than the farthest of so many tokens.

    The largest of n normal numbers lies near sqrt(2 ln n).
    """
    return max(1.0, math.log(TOKENS_TO_HOLD) / math.log(max(2, tokens))) ** 0.5


def _even_factors(values: Tensor) -> Tensor:
    """By what each feature is lifted to its layer's largest, so that o_proj rounds all as well: the shape of values."""
    factors = values.amax((1, 2), keepdim=True) / values
    return factors.nan_to_num(nan=1.0, posinf=LARGEST_FACTOR).clamp(1, LARGEST_FACTOR)


def _steps(ends: Tensor) -> Tensor:
    """The step with which the largest integer is at the end; 1 where there is nothing."""
    return torch.where(ends > 0, ends / LARGEST, 1.0)


def _whole_steps(steps: Tensor, first: Tensor) -> Tensor:
    """Steps, [heads, pairs, 2], made wider where that brings the first keys, [tokens, ...], near to whole ones."""
    wider = steps.unsqueeze(-1) * STRETCHES
    errors = torch.zeros_like(wider)
    for key in first.unsqueeze(-1):
        errors += (key - (key / wider).round() * wider).square() / len(first)
    best = (wider.square() / 12 + FIRST_WEIGHT * errors).argmin(-1, keepdim=True)
    return wider.gather(-1, best).squeeze(-1)
