"""Norms, SiLU and attention in standard ONNX operators alone, for engines that know no others.

The cache has slots: slot n holds the token at position n, whichever row it is in. So a query sees exactly the slots up
to its own position, and what lies in a slot beyond (padding of a shorter row) is overwritten before it is seen. Ragged
batches work as they do in GroupQueryAttention; left padding does not, as it does not there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from export.graph_builder import GraphBuilder
from export.operators import AttentionLayer
from export.rotary import dynamic_angles
from model import ModelConfig

# Added to the scores of slots that a query must not see.
HIDDEN = np.finfo(np.float32).min


class StandardOperators:
    """Primitive operators of the graph's opset; onnxruntime fuses some of them again."""

    name = "standard ONNX"
    in_place_cache = False
    packs_qkv = False

    @staticmethod
    def rotary(_: ModelConfig) -> str:
        """Nodes of its own."""
        return "separate Gather, Mul and Add nodes"

    @staticmethod
    def cache_head_dim(config: ModelConfig) -> int:
        """Heads of any size."""
        return config.head_dim

    def __init__(
        self,
        builder: GraphBuilder,
        config: ModelConfig,
        attention_mask: ir.Value,
        position_ids: ir.Value,
        rotary_angles: np.ndarray | None,
    ) -> None:
        self.builder, self.config = builder, config
        self.attention_mask, self.position_ids = attention_mask, position_ids
        self.swap, self.cos, self.sin = self._rotation(rotary_angles)
        self.is_later, self.biases = self._later_slots(), {}
        # int64 [batch_size, 1, sequence_length, 1]: the slots of the new tokens.
        self.slots = self._unsqueeze(position_ids, [1, 3], "slots/Unsqueeze")

    def norm(self, x: ir.Value, weight: ir.Value, name: str) -> ir.Value:
        """x / sqrt(mean(x²) + eps) * weight."""
        builder = self.builder
        squares = builder.op("Mul", [x, x], name=f"{name}/Square")
        mean = builder.op("ReduceMean", [squares, self._integers([-1])], name=f"{name}/ReduceMean", keepdims=1)
        epsilon = builder.constant("rms_norm_eps", np.array(self.config.rms_norm_eps, np.float32))
        root = builder.op("Sqrt", [builder.op("Add", [mean, epsilon], name=f"{name}/Add_eps")], name=f"{name}/Sqrt")
        return builder.op("Mul", [builder.op("Div", [x, root], name=f"{name}/Div"), weight], name=f"{name}/Mul")

    def add_and_norm(
        self, residual: ir.Value, addend: ir.Value, weight: ir.Value, name: str
    ) -> tuple[ir.Value, ir.Value]:
        """Add, and the norm after it."""
        summed = self.builder.op("Add", [residual, addend], name=f"{name}/Add")
        return self.norm(summed, weight, name), summed

    def silu(self, x: ir.Value, name: str) -> ir.Value:
        """Sigmoid and Mul."""
        return self.builder.op("Mul", [x, self.builder.op("Sigmoid", [x], name=f"{name}/Sigmoid")], name=f"{name}/SiLU")

    def attention(
        self, qkv: Sequence[ir.Value], past_key: ir.Value, past_value: ir.Value, layer: AttentionLayer
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Softmax of scaled scores, in five dimensions, so that the heads of a group share their keys by broadcasting.

        group = num_attention_heads / num_key_value_heads; `_by_head` gives [batch_size, num_key_value_heads, group,
        sequence_length, head_dim].
        """
        builder, config, prefix = self.builder, self.config, layer.prefix
        group = config.num_attention_heads // config.num_key_value_heads
        query = self._by_head(qkv[0], group, f"{prefix}/query")
        key = self._by_head(qkv[1], 1, f"{prefix}/key")
        if layer.norms is not None:
            query = self.norm(query, layer.norms[0], f"{prefix}.q_norm")
            key = self.norm(key, layer.norms[1], f"{prefix}.k_norm")
        if layer.has_rope:
            query, key = self._rotate(query, f"{prefix}/query"), self._rotate(key, f"{prefix}/key")
        value = self._by_head(qkv[2], 1, f"{prefix}/value")
        present_key = self._append(past_key, key, f"{prefix}/key")
        present_value = self._append(past_value, value, f"{prefix}/value")

        keys = self._unsqueeze(present_key, [2], f"{prefix}/Unsqueeze_keys")
        keys = builder.op("Transpose", [keys], name=f"{prefix}/Transpose_keys", perm=[0, 1, 2, 4, 3])
        scale = builder.constant("attention.scale", np.array(config.head_dim**-0.5, np.float32))
        scores = builder.op("MatMul", [query, keys], name=f"{prefix}/Scores")
        scores = builder.op("Mul", [scores, scale], name=f"{prefix}/Scale")
        scores = builder.op("Add", [scores, self._bias(layer.window)], name=f"{prefix}/Bias")
        weights = builder.op("Softmax", [scores], name=f"{prefix}/Softmax", axis=-1)
        values = self._unsqueeze(present_value, [2], f"{prefix}/Unsqueeze_values")
        attended = builder.op("MatMul", [weights, values], name=f"{prefix}/Attend")
        attended = builder.op("Transpose", [attended], name=f"{prefix}/Transpose", perm=[0, 3, 1, 2, 4])
        width = self._integers([0, 0, config.num_attention_heads * config.head_dim])
        return builder.op("Reshape", [attended, width], name=f"{prefix}/Reshape"), present_key, present_value

    def _rotation(self, angles: np.ndarray | None) -> tuple[ir.Value, ir.Value, ir.Value]:
        """RoPE as x * cos + x[swap] * sin: `swap` names each element's partner, sin has the sign of its turn.

        cos and sin become [batch_size, 1, 1, sequence_length, head_dim].
        """
        half = self.config.head_dim // 2
        order = np.arange(2 * half, dtype=np.int64)
        if self.config.rope_interleaved:
            pairs, swap = np.repeat(np.arange(half), 2), order ^ 1
            signs = np.where(order % 2, 1, -1)
        else:
            pairs, swap = order % half, np.roll(order, half)
            signs = np.where(order < half, -1, 1)
        signs = signs.astype(np.float32)
        rows = self._dynamic_rows(pairs, signs) if angles is None else self._table_rows(angles[:, pairs], signs)
        cos, sin = (
            self._unsqueeze(row, [1, 2], f"rotary/Unsqueeze_{name}")
            for row, name in zip(rows, ("cos", "sin"), strict=True)
        )
        return self.builder.constant("rotary.swap", swap), cos, sin

    def _table_rows(self, angles: np.ndarray, signs: np.ndarray) -> list[ir.Value]:
        """Cosines and signed sines of each token, [batch_size, sequence_length, head_dim], out of tables."""
        factor = np.float32(self.config.rope_attention_factor)
        rows = []
        for name, table in (("cos", np.cos(angles) * factor), ("sin", np.sin(angles) * signs * factor)):
            constant = self.builder.constant(f"rotary.{name}", table)
            rows.append(self.builder.op("Gather", [constant, self.position_ids], name=f"rotary/Gather_{name}"))
        return rows

    def _dynamic_rows(self, pairs: np.ndarray, signs: np.ndarray) -> list[ir.Value]:
        """Those rows where the angles depend on the length of the text."""
        builder, scaling = self.builder, self.config.rope_scaling
        if scaling is None:
            raise ValueError("angles depend on the length only where a config has rope_scaling")
        angles = dynamic_angles(builder, self.config, scaling, self.attention_mask, self.position_ids)
        columns = builder.constant("rotary.pairs", pairs.astype(np.int64))
        angles = builder.op("Gather", [angles, columns], name="rotary/Gather_pairs", axis=2)
        cos, sin = (builder.op(name, [angles], name=f"rotary/{name}") for name in ("Cos", "Sin"))
        return [cos, builder.op("Mul", [sin, builder.constant("rotary.signs", signs)], name="rotary/Mul_signs")]

    def _rotate(self, x: ir.Value, prefix: str) -> ir.Value:
        builder = self.builder
        partners = builder.op("Gather", [x, self.swap], name=f"{prefix}/Gather_partners", axis=4)
        along = builder.op("Mul", [x, self.cos], name=f"{prefix}/Mul_cos")
        across = builder.op("Mul", [partners, self.sin], name=f"{prefix}/Mul_sin")
        return builder.op("Add", [along, across], name=f"{prefix}/Rotated")

    def _later_slots(self) -> ir.Value:
        """Whether a slot holds a later token than the query's: bool [batch_size, 1, 1, sequence_length, slots]."""
        builder = self.builder
        total = builder.op("Shape", [self.attention_mask], name="bias/Shape", start=1, end=2)
        total = builder.op("Squeeze", [total, self._integers([0])], name="bias/Squeeze")
        zero, one = (builder.constant(f"integer.{number}", np.array(number, np.int64)) for number in (0, 1))
        self.all_slots = builder.op("Range", [zero, total, one], name="bias/Range")
        self.query_slots = self._unsqueeze(self.position_ids, [1, 2, 4], "bias/Unsqueeze")
        return builder.op("Greater", [self.all_slots, self.query_slots], name="bias/Greater")

    def _bias(self, window: int | None) -> ir.Value:
        """0 where a query may look and a huge negative number elsewhere: [batch_size, 1, 1, sequence_length, slots]."""
        if window in self.biases:
            return self.biases[window]
        builder, is_hidden, prefix = self.builder, self.is_later, "bias"
        if window is not None:
            prefix = f"bias_{window}"
            width = builder.constant(f"integer.{window}", np.array(window, np.int64))
            first = builder.op("Sub", [self.query_slots, width], name=f"{prefix}/Sub")
            is_earlier = builder.op("LessOrEqual", [self.all_slots, first], name=f"{prefix}/LessOrEqual")
            is_hidden = builder.op("Or", [is_hidden, is_earlier], name=f"{prefix}/Or")
        hidden = builder.constant("bias.hidden", np.array(HIDDEN, np.float32))
        seen = builder.constant("bias.seen", np.array(0, np.float32))
        self.biases[window] = builder.op("Where", [is_hidden, hidden, seen], name=f"{prefix}/Where")
        return self.biases[window]

    def _by_head(self, x: ir.Value, group: int, prefix: str) -> ir.Value:
        shape = self._integers([0, 0, self.config.num_key_value_heads, group, self.config.head_dim])
        split = self.builder.op("Reshape", [x, shape], name=f"{prefix}/Reshape")
        return self.builder.op("Transpose", [split], name=f"{prefix}/Transpose", perm=[0, 2, 3, 1, 4])

    def _append(self, past: ir.Value, new: ir.Value, prefix: str) -> ir.Value:
        """Past made longer by the new rows, which are put into the slots of their positions."""
        builder = self.builder
        new = builder.op("Squeeze", [new, self._integers([2])], name=f"{prefix}/Squeeze")
        longer = builder.op("Concat", [past, new], name=f"{prefix}/Concat", axis=2)
        shape = builder.op("Shape", [new], name=f"{prefix}/Shape")
        slots = builder.op("Expand", [self.slots, shape], name=f"{prefix}/Expand")
        return builder.op("ScatterElements", [longer, slots, new], name=f"{prefix}/Scatter", axis=2)

    def _unsqueeze(self, x: ir.Value, axes: list[int], name: str) -> ir.Value:
        return self.builder.op("Unsqueeze", [x, self._integers(axes)], name=name)

    def _integers(self, numbers: list[int]) -> ir.Value:
        return self.builder.constant(f"integers.{'_'.join(map(str, numbers))}", np.array(numbers, np.int64))
