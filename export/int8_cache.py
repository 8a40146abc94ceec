"""A KV cache of int8: a second graph over the same weights, a quarter of the cache's memory, less to read at a step.

onnxruntime's GroupQueryAttention reads such a cache with one scale for a layer's keys and one for its values; both are
taken from what the model holds in its cache while it writes its own samples. Values are much alike in size, keys are
not: a few features are many times as large as the rest (KIVI, arXiv:2402.02750), to which one scale would leave few
steps. So the exporter evens them out first, by powers of two in k_proj and the reverse in q_proj, or in k_norm and
q_norm where keys are normalized. That changes no bit of any logit with a cache of floats, and needs no operator.
"""

from __future__ import annotations

import re
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
# Other texts have gone a tenth beyond the samples, and what is cut off costs far more than a coarser step.
HEADROOM = 1.2
# A feature is lifted by 2^6 at most: one that was still in the samples may move in another text.
MOST_DOUBLINGS = 6
PROJECTION = re.compile(r"model\.layers\.(\d+)\.self_attn\.(q|k)_proj\.(?:weight|bias)")
NORM = re.compile(r"model\.layers\.(\d+)\.self_attn\.(q|k)_norm\.weight")


@dataclass(frozen=True)
class CacheRange:
    """The largest magnitudes that a cache has held.

    Attributes:
        keys: float32 [num_hidden_layers, num_key_value_heads, head_dim]. Of both features that RoPE turns into each
            other it is the length of the pair, which neither exceeds at any position.
        values: float32 [num_hidden_layers].
    """

    keys: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, cache: KVCache, config: ModelConfig) -> CacheRange:
        """What a model's own cache holds."""
        keys, values = cache.keys[..., : cache.length, :], cache.values[..., : cache.length, :]
        lengths = torch.stack([_pair_lengths(layer, config).amax((0, 2)) for layer in keys])
        return cls(lengths.numpy(), values.abs().amax((1, 2, 3, 4)).numpy())

    @property
    def key_doublings(self) -> np.ndarray:
        """How often each key feature can be doubled and stay within its layer's largest; int, shaped like `keys`."""
        largest = self.keys.max((1, 2), keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            doublings = np.floor(np.log2(largest / self.keys))
        return np.nan_to_num(doublings, posinf=MOST_DOUBLINGS).clip(0, MOST_DOUBLINGS).astype(np.int64)

    def scales(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """The steps of a layer's keys and of its values, float32 [1] each."""
        largest = self.keys[layer].max(), self.values[layer]
        key, value = (np.array([HEADROOM * top / LARGEST if top > 0 else 1.0], np.float32) for top in largest)
        return key, value


class KeyScaledCheckpoint:
    """A source of weights seen with every key feature brought to about one size; the model computes the same function.

    Args:
        weights: of the model.
        cache_range: the magnitudes by which features are lifted.
    """

    def __init__(self, weights: WeightSource, cache_range: CacheRange) -> None:
        self._weights = weights
        self.config = weights.config
        self.shapes = weights.shapes
        doublings = torch.from_numpy(cache_range.key_doublings)
        readers = self.config.num_attention_heads // self.config.num_key_value_heads
        # [num_hidden_layers, features of the tensor]
        if self.config.qk_norm:  # one norm serves all heads
            shared = doublings.amin(1)
            self._scaled, self._doublings = NORM, {"k": shared, "q": -shared}
        else:
            query = -doublings.repeat_interleave(readers, dim=1).flatten(1)
            self._scaled, self._doublings = PROJECTION, {"k": doublings.flatten(1), "q": query}

    def tensor(self, name: str) -> Tensor:
        """`WeightSource.tensor`, with rows of queries and keys multiplied by powers of two."""
        tensor = self._weights.tensor(name)
        found = self._scaled.fullmatch(name)
        if found is None:
            return tensor
        doublings = self._doublings[found[2]][int(found[1])]
        return torch.ldexp(tensor, doublings.unsqueeze(1) if tensor.ndim == 2 else doublings)


def write_int8_cache_graph(graph: Path, out: Path, cache_range: CacheRange) -> None:
    """Write a graph again with a cache of int8; weights in a file beside it are shared.

    Args:
        graph: a file with GroupQueryAttention, of weights seen through `KeyScaledCheckpoint`.
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
