"""Norms, SiLU and attention in onnxruntime's fused operators, and what a set of operators must offer.

`graph.py` says what is computed, a weight format how a matrix is stored, a set of operators how everything between the
matrices is written. The other set, of standard ONNX operators, is in `standard_operators.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir

from export.graph_builder import MICROSOFT, GraphBuilder
from export.rotary import dynamic_angles
from model import ModelConfig

# GroupQueryAttention rotates by itself only heads whose size is a multiple of this (its SIMD kernel's width).
FUSED_ROTARY_MULTIPLE = 16
# It takes heads of no other size than multiples of this.
HEAD_MULTIPLE = 8


@dataclass(frozen=True)
class AttentionLayer:
    """What attention does in one layer.

    Attributes:
        prefix: of the nodes' names.
        has_rope: whether queries and keys are rotated.
        window: how many tokens a query sees, its own included; None for all.
        norms: weights [head_dim] of the RMSNorms of queries and of keys, where the model has them.
    """

    prefix: str
    has_rope: bool
    window: int | None
    norms: tuple[ir.Value, ir.Value] | None


def has_fused_rotary(config: ModelConfig) -> bool:
    """Whether attention can apply RoPE itself; if not, RotaryEmbedding nodes stand before it."""
    return config.head_dim % FUSED_ROTARY_MULTIPLE == 0 and not config.has_dynamic_rope


class Operators(Protocol):
    """What `graph.py` asks of a set of operators.

    Attributes:
        name: for the manifest.
        in_place_cache: past and present may be one buffer.
        packs_qkv: attention takes queries, keys and values as one value, made by one product.
    """

    name: str
    in_place_cache: bool
    packs_qkv: bool

    @staticmethod
    def rotary(config: ModelConfig) -> str:
        """Where RoPE happens, for the manifest."""

    def __init__(
        self,
        builder: GraphBuilder,
        config: ModelConfig,
        attention_mask: ir.Value,
        position_ids: ir.Value,
        rotary_angles: np.ndarray | None,
    ) -> None:
        """Emit what all layers share.

        The angles of RoPE are float32 [max_position_embeddings, head_dim / 2]; None where they depend on the length of
        the text.
        """

    @staticmethod
    def cache_head_dim(config: ModelConfig) -> int:
        """The size of a head in the cache: head_dim, or more where heads are padded with zeros."""

    def norm(self, x: ir.Value, weight: ir.Value, name: str) -> ir.Value:
        """RMSNorm of x [batch_size, sequence_length, hidden_size]."""

    def add_and_norm(
        self, residual: ir.Value, addend: ir.Value, weight: ir.Value, name: str
    ) -> tuple[ir.Value, ir.Value]:
        """Residual + addend, and its RMSNorm: (normalized, sum)."""

    def silu(self, x: ir.Value, name: str) -> ir.Value:
        """x * sigmoid(x)."""

    def attention(
        self, qkv: Sequence[ir.Value], past_key: ir.Value, past_value: ir.Value, layer: AttentionLayer
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Normalize and rotate where the layer does, put the new keys and values into the cache, attend over all of it.

        Args:
            qkv: queries, keys, values, each [batch_size, sequence_length, heads * head_dim]; or packed into one.
            past_key: [batch_size, num_key_value_heads, past_sequence_length, cache_head_dim].
            past_value: likewise.
            layer: what attention does in this layer.

        Returns:
            attended [batch_size, sequence_length, num_attention_heads * head_dim], present key, present value.
        """


class FusedOperators:
    """GroupQueryAttention and its kin: few nodes, each one pass over memory."""

    name = "onnxruntime's"
    in_place_cache = True

    @staticmethod
    def rotary(config: ModelConfig) -> str:
        """In attention where it can be."""
        if has_fused_rotary(config):
            return "in GroupQueryAttention"
        if config.has_dynamic_rope:
            return "separate RotaryEmbedding nodes: the angles depend on the length of the text"
        multiple = f"not a multiple of {FUSED_ROTARY_MULTIPLE}"
        return f"separate RotaryEmbedding nodes: head_dim {config.head_dim} is {multiple}"

    def __init__(
        self,
        builder: GraphBuilder,
        config: ModelConfig,
        attention_mask: ir.Value,
        position_ids: ir.Value,
        rotary_angles: np.ndarray | None,
    ) -> None:
        self.builder, self.config = builder, config
        self.packs_qkv = has_fused_rotary(config) and not config.qk_norm
        one = builder.constant("one", np.array([1], np.int64))
        lengths = builder.op("ReduceSum", [attention_mask, one], name="seqlens/ReduceSum", keepdims=0)
        last = builder.op("Sub", [lengths, one], name="seqlens/Sub")
        total = builder.op("Shape", [attention_mask], name="total/Shape", start=1, end=2)
        no_axes = builder.constant("scalar_shape", np.array([], np.int64))
        total = builder.op("Reshape", [total, no_axes], name="total/Reshape")
        self.cos, self.sin, self.rotary_rows = self._rotary_tables(attention_mask, position_ids, rotary_angles)
        # int32 [batch_size]: tokens of a row after this call, less one; int32 scalar: those of the longest row.
        self.seqlens_k = builder.op("Cast", [last], name="seqlens/Cast", to=ir.DataType.INT32)
        self.total = builder.op("Cast", [total], name="total/Cast", to=ir.DataType.INT32)

    @staticmethod
    def cache_head_dim(config: ModelConfig) -> int:
        """Heads are padded to a size that GroupQueryAttention takes."""
        return -(-config.head_dim // HEAD_MULTIPLE) * HEAD_MULTIPLE

    def _rotary_tables(
        self, attention_mask: ir.Value, position_ids: ir.Value, rotary_angles: np.ndarray | None
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Cosines and sines, each [rows, head_dim / 2], and each token's row, [batch_size, sequence_length]."""
        builder, scaling = self.builder, self.config.rope_scaling
        if rotary_angles is not None or scaling is None:
            # Folded into two tables when the graph is loaded: the file holds one.
            angles, rows = builder.constant("rotary.angles", rotary_angles), position_ids
        else:
            angles = dynamic_angles(builder, self.config, scaling, attention_mask, position_ids)
            flat = builder.constant("rotary.flat", np.array([-1, self.config.head_dim // 2], np.int64))
            angles = builder.op("Reshape", [angles, flat], name="rotary/Reshape")
            rows = self._numbered(position_ids)
        cos, sin = (builder.op(name, [angles], name=f"rotary/{name}") for name in ("Cos", "Sin"))
        if self.config.rope_attention_factor != 1:
            factor = builder.constant(
                "rotary.attention_factor", np.array(self.config.rope_attention_factor, np.float32)
            )
            cos = builder.op("Mul", [cos, factor], name="rotary/Mul_cos")
            sin = builder.op("Mul", [sin, factor], name="rotary/Mul_sin")
        return cos, sin, rows

    def _numbered(self, position_ids: ir.Value) -> ir.Value:
        """0, 1, 2, ... in the shape of position_ids."""
        builder = self.builder
        zero, one = (builder.constant(f"integer.{number}", np.array(number, np.int64)) for number in (0, 1))
        count = builder.op("Size", [position_ids], name="rotary/Size")
        numbers = builder.op("Range", [zero, count, one], name="rotary/Range")
        shape = builder.op("Shape", [position_ids], name="rotary/Shape")
        return builder.op("Reshape", [numbers, shape], name="rotary/Reshape_rows")

    def norm(self, x: ir.Value, weight: ir.Value, name: str) -> ir.Value:
        """SimplifiedLayerNormalization."""
        return self.builder.op(
            "SimplifiedLayerNormalization",
            [x, weight],
            name=f"{name}/RMSNorm",
            axis=-1,
            epsilon=self.config.rms_norm_eps,
            stash_type=1,
        )

    def add_and_norm(
        self, residual: ir.Value, addend: ir.Value, weight: ir.Value, name: str
    ) -> tuple[ir.Value, ir.Value]:
        """Both in one pass over memory."""
        normalized, _, _, summed = self.builder.op(
            "SkipSimplifiedLayerNormalization",
            [residual, addend, weight],
            name=f"{name}/AddRMSNorm",
            domain=MICROSOFT,
            outputs=4,
            epsilon=self.config.rms_norm_eps,
        )
        return normalized, summed

    def silu(self, x: ir.Value, name: str) -> ir.Value:
        """QuickGelu is x * sigmoid(alpha * x); with alpha 1 it is SiLU, in one pass over memory."""
        return self.builder.op("QuickGelu", [x], name=f"{name}/SiLU", domain=MICROSOFT, alpha=1.0)

    def attention(
        self, qkv: Sequence[ir.Value], past_key: ir.Value, past_value: ir.Value, layer: AttentionLayer
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """GroupQueryAttention, with RoPE inside where it can."""
        config, prefix = self.config, layer.prefix
        rotates_inside = layer.has_rope and has_fused_rotary(config)
        if layer.norms is not None:
            qkv = self._normalized(qkv, layer.norms, prefix)
        if layer.has_rope and not rotates_inside:
            qkv = self._rotated(qkv, prefix)
        if self.cache_head_dim(config) != config.head_dim:
            qkv = self._padded(qkv, prefix)
        query, key, value = (*qkv, None, None) if self.packs_qkv else qkv
        rotary_inputs = [self.cos, self.sin, self.rotary_rows] if rotates_inside else []
        window = {} if layer.window is None else {"local_window_size": layer.window}
        attended, present_key, present_value = self.builder.op(
            "GroupQueryAttention",
            [query, key, value, past_key, past_value, self.seqlens_k, self.total, *rotary_inputs],
            name=f"{prefix}/GroupQueryAttention",
            domain=MICROSOFT,
            outputs=3,
            num_heads=config.num_attention_heads,
            kv_num_heads=config.num_key_value_heads,
            scale=config.head_dim**-0.5,
            do_rotary=int(rotates_inside),
            rotary_interleaved=int(rotates_inside and config.rope_interleaved),
            **window,
        )
        if self.cache_head_dim(config) != config.head_dim:
            attended = self._unpadded(attended, prefix)
        return attended, present_key, present_value

    def _normalized(
        self, qkv: Sequence[ir.Value], norms: tuple[ir.Value, ir.Value], prefix: str
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """RMSNorm of each head's queries and keys."""
        query, key, value = qkv
        normalized = []
        for part, weight, name in zip((query, key), norms, "qk", strict=True):
            by_head = self._by_head(part, self.config.head_dim, f"{prefix}/{name}_norm")
            normalized.append(self._flat(self.norm(by_head, weight, f"{prefix}.{name}_norm"), f"{prefix}/{name}_norm"))
        return normalized[0], normalized[1], value

    def _padded(self, qkv: Sequence[ir.Value], prefix: str) -> tuple[ir.Value, ...]:
        """Each head made longer by zeros, which change neither scores nor sums."""
        builder = self.builder
        added = self.cache_head_dim(self.config) - self.config.head_dim
        pads = builder.constant("heads.pads", np.array([0, added], np.int64))
        last = builder.constant("axis.last", np.array([-1], np.int64))
        padded = []
        for part, name in zip(qkv, "qkv", strict=True):
            by_head = self._by_head(part, self.config.head_dim, f"{prefix}/{name}")
            longer = builder.op("Pad", [by_head, pads, None, last], name=f"{prefix}/{name}/Pad")
            padded.append(self._flat(longer, f"{prefix}/{name}"))
        return tuple(padded)

    def _unpadded(self, attended: ir.Value, prefix: str) -> ir.Value:
        builder = self.builder
        by_head = self._by_head(attended, self.cache_head_dim(self.config), f"{prefix}/attended")
        bounds = [
            builder.constant(name, np.array([place], np.int64))
            for name, place in (("heads.start", 0), ("heads.end", self.config.head_dim), ("axis.last", -1))
        ]
        shorter = builder.op("Slice", [by_head, *bounds], name=f"{prefix}/attended/Slice")
        return self._flat(shorter, f"{prefix}/attended")

    def _by_head(self, x: ir.Value, head_dim: int, name: str) -> ir.Value:
        """[batch_size, sequence_length, heads * head_dim] -> [batch_size, sequence_length, heads, head_dim]."""
        shape = self.builder.constant(f"heads.shape_{head_dim}", np.array([0, 0, -1, head_dim], np.int64))
        return self.builder.op("Reshape", [x, shape], name=f"{name}/Reshape_heads")

    def _flat(self, x: ir.Value, name: str) -> ir.Value:
        """[batch_size, sequence_length, heads, head_dim] -> [batch_size, sequence_length, heads * head_dim]."""
        shape = self.builder.constant("heads.flat", np.array([0, 0, -1], np.int64))
        return self.builder.op("Reshape", [x, shape], name=f"{name}/Reshape_flat")

    def _rotated(self, qkv: Sequence[ir.Value], prefix: str) -> tuple[ir.Value, ir.Value, ir.Value]:
        """RoPE by nodes of its own."""
        query, key, value = qkv
        heads = self.config.num_attention_heads, self.config.num_key_value_heads
        query, key = (
            self.builder.op(
                "RotaryEmbedding",
                [part, self.rotary_rows, self.cos, self.sin],
                name=f"{prefix}/RotaryEmbedding_{name}",
                domain=MICROSOFT,
                interleaved=int(self.config.rope_interleaved),
                num_heads=num_heads,
                rotary_embedding_dim=0,
            )
            for part, name, num_heads in zip((query, key), "qk", heads, strict=True)
        )
        return query, key, value
