"""A KV cache of int8: a second graph over the same weights, a quarter of the cache's memory, less to read at a step.

onnxruntime's GroupQueryAttention reads such a cache with one scale for a layer's keys and one for its values; both are
taken from what the model holds in its cache while it writes its own samples. Some features of keys are many times as
large as the rest (KIVI, arXiv:2402.02750), to which one scale would leave few steps. So the exporter evens features out
first: those of keys in k_proj and the reverse in q_proj (k_norm and q_norm where keys are normalized), those of values
in v_proj and the reverse in o_proj. Then one scale for all is as good as one for each, and needs no operator. Values
are rotated within their head before that (QuaRot, arXiv:2404.00456): a feature that is large in a few tokens is then
spread over all, so that the largest is nearer to the rest. Keys cannot be: RoPE comes between them and what reads them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from export.graph_builder import MICROSOFT
from model import ModelConfig, WeightSource
from model.attention import KVCache
from runtime import contract

LARGEST = 127
# How far other texts may go beyond the samples. What is cut off of a value costs far more than a coarser step; the
# range of a key is the length of its pair, which it seldom reaches.
KEY_HEADROOM, VALUE_HEADROOM = 1.05, 1.15
# A feature is lifted by this at most: one that was still in the samples may move in another text.
LARGEST_FACTOR = 64.0
ATTENTION = re.compile(r"model\.layers\.(\d+)\.self_attn\.(\w+)(?:\.(weight|bias))?")


@dataclass(frozen=True)
class CacheRange:
    """The largest magnitudes that a cache has held, float32 [num_hidden_layers, num_key_value_heads, head_dim] each.

    Attributes:
        keys: of both features that RoPE turns into each other it is the length of the pair, which neither exceeds at
            any position.
        values: of each feature, as rotated.
    """

    keys: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, cache: KVCache, config: ModelConfig) -> CacheRange:
        """What a model's own cache holds."""
        keys, values = cache.keys[..., : cache.length, :], cache.values[..., : cache.length, :]
        lengths = torch.stack([_pair_lengths(layer, config).amax((0, 2)) for layer in keys])
        return cls(lengths.numpy(), (values @ rotation(config.head_dim)).abs().amax((1, 3)).numpy())

    @classmethod
    def around(cls, ranges: Sequence[CacheRange]) -> CacheRange:
        """The range of several caches together."""
        keys, values = ([getattr(part, name) for part in ranges] for name in ("keys", "values"))
        return cls(np.max(keys, axis=0), np.max(values, axis=0))

    def scales(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """The steps of a layer's keys and of its values, float32 [1] each."""
        ends = KEY_HEADROOM * self.keys[layer].max(), VALUE_HEADROOM * self.values[layer].max()
        key, value = (np.array([end / LARGEST if end > 0 else 1.0], np.float32) for end in ends)
        return key, value


class EvenedCheckpoint:
    """A source of weights seen with values rotated, and keys and values of one size each: the same function.

    Args:
        weights: of the model.
        cache_range: the magnitudes by which features are lifted to the largest of their layer.
    """

    folded = "values rotated within heads, keys and values of one size in the KV cache"

    def __init__(self, weights: WeightSource, cache_range: CacheRange) -> None:
        self._weights = weights
        self.config = config = weights.config
        self.shapes = weights.shapes
        self._rotation = rotation(config.head_dim)
        readers = config.num_attention_heads // config.num_key_value_heads
        keys, values = even_factors(cache_range.keys), even_factors(cache_range.values)
        self._attended = values.repeat_interleave(readers, dim=1).flatten(1)
        # Projection -> what its outputs are multiplied by, [num_hidden_layers, features].
        self._outputs = {"v_proj": values.flatten(1)}
        if config.qk_norm:  # one norm serves all heads
            shared = keys.amin(1)
            self._outputs |= {"k_norm": shared, "q_norm": 1 / shared}
        else:
            queries = 1 / keys.repeat_interleave(readers, dim=1).flatten(1)
            self._outputs |= {"k_proj": keys.flatten(1), "q_proj": queries}

    def input_moment(self, name: str, moment: Tensor) -> Tensor:
        """The inputs of `o_proj` are rotated and evened as the values are; those of others stay."""
        found = ATTENTION.fullmatch(name)
        if found is None or found[2] != "o_proj":
            return moment
        factor = self._attended[int(found[1])]
        half = self._rotated(moment).T  # M R, then the same from the other side: R^T M R
        return self._rotated(half) * factor.outer(factor)

    def _rotated(self, rows: Tensor) -> Tensor:
        """Each head's part of the last axis, rotated: [..., heads * head_dim]."""
        return (rows.unflatten(-1, (-1, self.config.head_dim)) @ self._rotation).flatten(-2)

    def tensor(self, name: str) -> Tensor:
        """`WeightSource.tensor`, evened."""
        tensor = self._weights.tensor(name)
        found = ATTENTION.fullmatch(name)
        if found is None:
            return tensor
        if found[2] == "o_proj" and found[3] == "weight":
            return self._rotated(tensor) / self._attended[int(found[1])]
        if found[2] not in self._outputs:
            return tensor
        if found[2] == "v_proj":
            tensor = self._rotated(tensor.mT).mT if tensor.ndim == 2 else self._rotated(tensor)
        factor = self._outputs[found[2]][int(found[1])]
        return tensor * (factor.unsqueeze(1) if tensor.ndim == 2 else factor)


def rotation(head_dim: int) -> Tensor:
    """An orthogonal matrix that mixes features, float32 [head_dim, head_dim].

    Hadamard's, of the largest power of two that divides head_dim, for each of as many parts: all its entries have one
    size, so every feature of a part goes into every other one by the same share.
    """
    matrix, size = torch.ones(1, 1), head_dim & -head_dim
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)]) / 2**0.5
    return torch.block_diag(*[matrix] * (head_dim // size))


def even_factors(ranges: np.ndarray) -> Tensor:
    """By what each feature is lifted to its layer's largest, [num_hidden_layers, num_key_value_heads, head_dim]."""
    found = torch.from_numpy(ranges)
    factors = found.amax((1, 2), keepdim=True) / found
    return factors.nan_to_num(nan=1.0, posinf=LARGEST_FACTOR).clamp(1, LARGEST_FACTOR)


def write_int8_cache_graph(graph: Path, out: Path, cache_range: CacheRange) -> None:
    """Write a graph again with a cache of int8; weights in a file beside it are shared.

    Args:
        graph: a file with GroupQueryAttention, of weights seen through `EvenedCheckpoint`.
        out: the new file, in the same folder.
        cache_range: of the same checkpoint.
    """
    model = ir.load(graph)
    values = {value.name: value for value in (*model.graph.inputs, *model.graph.outputs)}
    attentions = [node for node in model.graph if node.op_type == "GroupQueryAttention" and node.domain == MICROSOFT]
    for layer, node in enumerate(attentions):
        _quantize_cache(model.graph, node, *cache_range.scales(layer))
        for name in (*contract.past_names(layer), *contract.present_names(layer)):
            values[name].type = ir.TensorType(ir.DataType.INT8)
    ir.save(model, out)


def _quantize_cache(graph: ir.Graph, node: ir.Node, key_scale: np.ndarray, value_scale: np.ndarray) -> None:
    node.resize_inputs(14)  # ..., cos, sin, position_ids, attention_bias, head_sink, k_scale, v_scale
    for place, word, scale in ((12, "k", key_scale), (13, "v", value_scale)):
        name = f"{node.name}/{word}_scale"
        tensor = ir.tensor(scale, name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor)
        graph.register_initializer(value)
        node.replace_input_with(place, value)
        node.attributes.add(ir.AttrString(f"{word}_quant_type", "PER_TENSOR"))
    node.attributes.add(ir.AttrInt64("kv_cache_bit_width", 8))


def _pair_lengths(keys: Tensor, config: ModelConfig) -> Tensor:
    """[..., head_dim]: at both features of a pair its length, sqrt(a^2 + b^2)."""
    if config.rope_interleaved:
        return torch.linalg.vector_norm(keys.unflatten(-1, (-1, 2)), dim=-1).repeat_interleave(2, dim=-1)
    lengths = torch.linalg.vector_norm(keys.unflatten(-1, (2, -1)), dim=-2)
    return torch.cat([lengths, lengths], dim=-1)
