"""Angles of RoPE that depend on the length of the text, as nodes of the graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.graph_builder import GraphBuilder
from model import ModelConfig
from model.rope import RopeScaling


def dynamic_angles(
    builder: GraphBuilder,
    config: ModelConfig,
    scaling: RopeScaling,
    attention_mask: ir.Value,
    position_ids: ir.Value,
) -> ir.Value:
    """`model.rotary.dynamic_angles` in the graph: float32 [batch_size, sequence_length, head_dim / 2].

    A row's base follows from the length of that row alone, so other rows of a batch do not change it.
    """

    def number(name: str, value: float) -> ir.Value:
        return builder.constant(f"rotary.{name}", np.array(value, np.float32))

    axes = {axis: builder.constant(f"rotary.axis_{axis}", np.array([axis], np.int64)) for axis in (1, 2)}
    lengths = builder.op("ReduceSum", [attention_mask, axes[1]], name="rotary/ReduceSum", keepdims=1)
    lengths = builder.op("Cast", [lengths], name="rotary/Cast_lengths", to=ir.DataType.FLOAT)
    original = number("original", scaling.original_max_position_embeddings)
    lengths = builder.op("Max", [lengths, original], name="rotary/Max")
    growth = builder.op("Mul", [lengths, number("factor", scaling.factor)], name="rotary/Mul_factor")
    growth = builder.op("Div", [growth, original], name="rotary/Div_original")
    growth = builder.op("Sub", [growth, number("factor_less_one", scaling.factor - 1)], name="rotary/Sub")
    power = number("power", config.head_dim / (config.head_dim - 2))
    growth = builder.op("Pow", [growth, power], name="rotary/Pow_growth")
    base = builder.op("Mul", [growth, number("theta", config.rope_theta)], name="rotary/Mul_theta")  # [batch_size, 1]
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
    exponents = builder.constant("rotary.exponents", exponents)
    wavelengths = builder.op("Pow", [base, exponents], name="rotary/Pow")  # [batch_size, head_dim / 2]
    wavelengths = builder.op("Unsqueeze", [wavelengths, axes[1]], name="rotary/Unsqueeze_wavelengths")
    positions = builder.op("Unsqueeze", [position_ids, axes[2]], name="rotary/Unsqueeze_positions")
    positions = builder.op("Cast", [positions], name="rotary/Cast_positions", to=ir.DataType.FLOAT)
    return builder.op("Div", [positions, wavelengths], name="rotary/Div")
