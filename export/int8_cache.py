"""A KV cache of int8: a second graph over the same weights, a quarter of the cache's memory, less to read at a step.

onnxruntime's GroupQueryAttention reads such a cache with fixed steps: here one for each feature of keys (KIVI,
arXiv:2402.02750: some are many times as large as the rest), and likewise of values, for the operator wants both alike.
What the graph subtracts from keys and values before they are stored, and why that changes nothing, is in
`cache_layout.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from export.cache_layout import CacheLayout
from export.cache_statistics import unpaired
from export.graph_builder import MICROSOFT
from model import ModelConfig, WeightSource
from runtime import contract

# Places among the inputs of GroupQueryAttention; `query` is all three where no others are given.
QUERY, KEY, VALUE, COS, SIN, ROTARY_ROWS, KEY_SCALE, VALUE_SCALE = 0, 1, 2, 7, 8, 9, 12, 13
# Of MatMulNBits.
BIAS = 5


def write_int8_cache_graph(graph: Path, out: Path, layout: CacheLayout, weights: WeightSource) -> None:
    """Write a graph again with a cache of int8; weights in a file beside it are shared.

    Args:
        graph: a file with GroupQueryAttention.
        out: the new file, in the same folder.
        layout: of the cache.
        weights: those of the graph, seen through `LaidOutCheckpoint`.
    """
    model = ir.load(graph)
    _Int8CacheGraph(model.graph, layout, weights).rewrite()
    ir.save(model, out)


class _Int8CacheGraph:
    def __init__(self, graph: ir.Graph, layout: CacheLayout, weights: WeightSource) -> None:
        self.graph = graph
        self.layout = layout
        self.weights = weights
        self.config = weights.config

    def rewrite(self) -> None:
        values = {value.name: value for value in (*self.graph.inputs, *self.graph.outputs)}
        nodes = [node for node in self.graph if node.op_type == "GroupQueryAttention" and node.domain == MICROSOFT]
        cache_head_dim = values[contract.past_names(0)[0]].shape[-1]
        self.padding = cache_head_dim - self.config.head_dim
        rows = None
        for layer, node in enumerate(nodes):
            self._set_scales(node, layer)
            self._shift_values(node, layer)
            if self.layout.is_shifted[layer].any():
                rows = self._key_shifts(node) if rows is None else rows
                self._insert("Add", [node.inputs[QUERY], rows], node, f"{node.name}/shift_keys", replaces=QUERY)
            for name in (*contract.past_names(layer), *contract.present_names(layer)):
                values[name].type = ir.TensorType(ir.DataType.INT8)

    def _set_scales(self, node: ir.Node, layer: int) -> None:
        node.resize_inputs(VALUE_SCALE + 1)
        steps = (KEY_SCALE, "k", self.layout.key_steps), (VALUE_SCALE, "v", self.layout.value_steps)
        for place, word, step in steps:
            scales = self._padded(step[layer], 1.0)[None, :, None]
            node.replace_input_with(place, self._constant(f"{node.name}/{word}_scale", scales))
            node.attributes.add(ir.AttrString(f"{word}_quant_type", "PER_CHANNEL"))
        node.attributes.add(ir.AttrInt64("kv_cache_bit_width", 8))

    def _shift_values(self, node: ir.Node, layer: int) -> None:
        """Subtract the first token's from the values of a layer, and give it back to what attention makes of them."""
        first = self.layout.first_value[layer]
        readers = self.config.num_attention_heads // self.config.num_key_value_heads
        attended = first.repeat_interleave(readers, dim=0)
        place, shift = VALUE, self._padded(-first).flatten()
        if node.inputs[KEY] is None:
            queries_and_keys = attended.numel() + first.numel()
            place, shift = QUERY, torch.cat([torch.zeros(queries_and_keys), shift])
        producer = node.inputs[place].producer()
        if not self._add_to_bias(producer, shift, "shift_values"):
            shifts = self._constant(f"{node.name}/value_shift", shift)
            self._insert("Add", [node.inputs[place], shifts], node, f"{node.name}/shift_values", replaces=place)
        (reader,) = node.outputs[0].consumers()
        matrix = self.weights.tensor(f"model.layers.{layer}.self_attn.o_proj.weight")
        if self._add_to_bias(reader, matrix @ attended.flatten(), "shift_back"):
            return
        shifts = self._constant(f"{node.name}/shift_back", self._padded(attended).flatten())
        inputs = [node.outputs[0], shifts]
        self._insert("Add", inputs, reader, f"{node.name}/shift_values_back", replaces=reader.inputs.index(inputs[0]))

    def _add_to_bias(self, node: ir.Node | None, addend: Tensor, name: str) -> bool:
        """Whether the node is a product that takes a bias; then it has been added there, and costs nothing."""
        if node is None or node.op_type != "MatMulNBits":
            return False
        node.resize_inputs(BIAS + 1)
        bias, old = addend.numpy(), node.inputs[BIAS]
        if old is not None and old.const_value is not None:
            bias = bias + old.const_value.numpy()
        node.replace_input_with(BIAS, self._constant(f"{node.name}/{name}", bias))
        return True

    def _key_shifts(self, node: ir.Node) -> ir.Value:
        """What to add to queries, keys and values, so that RoPE makes -1 of it in the first feature of shifted pairs.

        That is RoPE of the opposite angle of (-1, 0), which is (-cos, sin): [batch_size, sequence_length, all heads].
        """
        positions = node.inputs[ROTARY_ROWS]
        tables = [
            self._insert("Gather", [node.inputs[place], positions], node, f"key_shifts/Gather_{name}")
            for place, name in ((COS, "cos"), (SIN, "sin"))
        ]
        angles = self._insert("Concat", tables, node, "key_shifts/Concat", axis=-1)
        chosen = self._constant("key_shifts.chosen", _chosen_features(self.layout, self.config))
        return self._insert("MatMul", [angles, chosen], node, "key_shifts/MatMul")

    def _padded(self, x: Tensor, value: float = 0.0) -> Tensor:
        """[..., head_dim] -> [..., cache_head_dim]."""
        return torch.nn.functional.pad(x, (0, self.padding), value=value)

    def _constant(self, name: str, numbers: Tensor | np.ndarray) -> ir.Value:
        tensor = ir.tensor(np.ascontiguousarray(numbers, np.float32), name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def _insert(
        self,
        op_type: str,
        inputs: list[ir.Value],
        before: ir.Node,
        name: str,
        replaces: int | None = None,
        **attributes: int,
    ) -> ir.Value:
        """A new node before another one, and in place of an input of it where one is given."""
        node = ir.node(op_type, inputs, attributes=attributes, name=name)
        node.outputs[0].name = f"{name}/output_0"
        self.graph.insert_before(before, node)
        if replaces is not None:
            before.replace_input_with(replaces, node.outputs[0])
        return node.outputs[0]


def _chosen_features(layout: CacheLayout, config: ModelConfig) -> Tensor:
    """From cosines and sines to (-cos, sin) at the keys' shifted pairs, float32 [head_dim, features of all heads]."""
    pairs_of_head = config.head_dim // 2
    chosen = torch.zeros(config.head_dim, pairs_of_head, 2)
    shifted = layout.is_shifted.any(0).nonzero().squeeze(1)  # the same in all layers that have RoPE
    chosen[shifted, shifted, 0] = -1
    chosen[pairs_of_head + shifted, shifted, 1] = 1
    keys = unpaired(chosen, config).repeat(1, config.num_key_value_heads)
    queries, values = config.num_attention_heads * config.head_dim, keys.shape[1]
    return torch.nn.functional.pad(keys, (queries, values))
