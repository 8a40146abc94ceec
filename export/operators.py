"""Norms, SiLU and attention in onnxruntime's fused operators, and what a set of operators must offer.

`graph.py` says what is computed, a weight format how a matrix is stored, a set of operators how everything between the
matrices is written. The other set, of standard ONNX operators, is in `standard_operators.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from export.graph_builder import MICROSOFT, GraphBuilder
from model import ModelConfig

# GroupQueryAttention rotates by itself only heads whose size is a multiple of this (its SIMD kernel's width).
FUSED_ROTARY_MULTIPLE = 16


def has_fused_rotary(config: ModelConfig) -> bool:
    """Whether attention can apply RoPE itself; if not, RotaryEmbedding nodes stand before it."""
    return config.head_dim % FUSED_ROTARY_MULTIPLE == 0


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
        rotary_angles: np.ndarray,
    ) -> None:
        """Emit what all layers share; the angles of RoPE are float32 [max_position_embeddings, head_dim / 2]."""

    def norm(self, x: ir.Value, weight: ir.Value, name: str) -> ir.Value:
        """RMSNorm of x [batch_size, sequence_length, hidden_size]."""

    def add_and_norm(
        self, residual: ir.Value, addend: ir.Value, weight: ir.Value, name: str
    ) -> tuple[ir.Value, ir.Value]:
        """Residual + addend, and its RMSNorm: (normalized, sum)."""

    def silu(self, x: ir.Value, name: str) -> ir.Value:
        """x * sigmoid(x)."""

    def attention(
        self, qkv: Sequence[ir.Value], past_key: ir.Value, past_value: ir.Value, prefix: str
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Rotate, put the new keys and values into the cache, attend over all of it.

        Args:
            qkv: queries, keys, values, each [batch_size, sequence_length, heads * head_dim]; or packed into one.
            past_key: [batch_size, num_key_value_heads, past_sequence_length, head_dim].
            past_value: likewise.
            prefix: of the nodes' names.

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
        return f"separate RotaryEmbedding nodes: head_dim {config.head_dim} is no multiple of {FUSED_ROTARY_MULTIPLE}"

    def __init__(
        self,
        builder: GraphBuilder,
        config: ModelConfig,
        attention_mask: ir.Value,
        position_ids: ir.Value,
        rotary_angles: np.ndarray,
    ) -> None:
        self.builder, self.config, self.position_ids = builder, config, position_ids
        self.packs_qkv = has_fused_rotary(config)
        one = builder.constant("one", np.array([1], np.int64))
        lengths = builder.op("ReduceSum", [attention_mask, one], name="seqlens/ReduceSum", keepdims=0)
        last = builder.op("Sub", [lengths, one], name="seqlens/Sub")
        total = builder.op("Shape", [attention_mask], name="total/Shape", start=1, end=2)
        no_axes = builder.constant("scalar_shape", np.array([], np.int64))
        total = builder.op("Reshape", [total, no_axes], name="total/Reshape")
        # Folded into two tables when the graph is loaded: the file holds one.
        angles = builder.constant("rotary.angles", rotary_angles)
        self.cos, self.sin = (builder.op(name, [angles], name=f"rotary/{name}") for name in ("Cos", "Sin"))
        # int32 [batch_size]: tokens of a row after this call, less one; int32 scalar: those of the longest row.
        self.seqlens_k = builder.op("Cast", [last], name="seqlens/Cast", to=ir.DataType.INT32)
        self.total = builder.op("Cast", [total], name="total/Cast", to=ir.DataType.INT32)

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
        self, qkv: Sequence[ir.Value], past_key: ir.Value, past_value: ir.Value, prefix: str
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """GroupQueryAttention, with RoPE inside where it can."""
        config, fused = self.config, self.packs_qkv
        query, key, value = (*qkv, None, None) if fused else self._rotated(qkv, prefix)
        rotary_inputs = [self.cos, self.sin, self.position_ids] if fused else []
        attended, present_key, present_value = self.builder.op(
            "GroupQueryAttention",
            [query, key, value, past_key, past_value, self.seqlens_k, self.total, *rotary_inputs],
            name=f"{prefix}/GroupQueryAttention",
            domain=MICROSOFT,
            outputs=3,
            num_heads=config.num_attention_heads,
            kv_num_heads=config.num_key_value_heads,
            scale=config.head_dim**-0.5,
            do_rotary=int(fused),
            rotary_interleaved=int(fused and config.rope_interleaved),
        )
        return attended, present_key, present_value

    def _rotated(self, qkv: Sequence[ir.Value], prefix: str) -> tuple[ir.Value, ir.Value, ir.Value]:
        """RoPE by nodes of its own."""
        query, key, value = qkv
        heads = self.config.num_attention_heads, self.config.num_key_value_heads
        query, key = (
            self.builder.op(
                "RotaryEmbedding",
                [part, self.position_ids, self.cos, self.sin],
                name=f"{prefix}/RotaryEmbedding_{name}",
                domain=MICROSOFT,
                interleaved=int(self.config.rope_interleaved),
                num_heads=num_heads,
                rotary_embedding_dim=0,
            )
            for part, name, num_heads in zip((query, key), "qk", heads, strict=True)
        )
        return query, key, value
