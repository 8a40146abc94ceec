"""The precisions of a bundle for other engines: the same names, in standard ONNX operators alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from export.errors import ExportError
from export.graph_builder import GraphBuilder
from export.precisions import WEIGHTS, MakeFormat, Recipe, gptq
from export.weight_formats import DynamicInt8, Float, Weight, add_bias


class StandardFloat(Float):
    """`Float`, with a tied head that reads the embedding's table through Gemm."""

    def tied_head(self, builder: GraphBuilder, x: ir.Value, table: Weight) -> ir.Value:
        """Gemm multiplies with a transposed matrix, but takes two dimensions alone: rows in, rows out."""
        rows_shape = builder.constant("lm_head.rows_shape", np.array([-1, table.in_features], np.int64))
        rows = builder.op("Reshape", [x, rows_shape], name="lm_head/Reshape_rows")
        logits = builder.op("Gemm", [rows, self._table(builder, table)], name="lm_head/Gemm", transB=1)
        batch_and_length = builder.op("Shape", [x], name="lm_head/Shape", end=2)
        width = builder.constant("lm_head.width", np.array([table.out_features], np.int64))
        shape = builder.op("Concat", [batch_and_length, width], name="lm_head/Concat", axis=0)
        return builder.op("Reshape", [logits, shape], name="lm_head/Reshape")


class DequantizedInt8(DynamicInt8):
    """int8 weights with a scale a channel, as `DynamicInt8` stores them; the products are of floats."""

    def linear(self, builder: GraphBuilder, x: ir.Value, weight: Weight) -> ir.Value:
        """DequantizeLinear and MatMul, which engines for quantized models know how to fuse.

        The zero points are zero, and written all the same: where onnxruntime makes such weights unsigned
        (`runtime/engine/exact_products.py`), it would else give them one for all channels, and then refuse it.
        """
        matrix, scales = self._quantized(builder, weight)
        zeros = builder.constant(f"{weight.name}.weight_zero_points", np.zeros(weight.out_features, np.int8))
        stored = [matrix, scales, zeros]
        matrix = builder.op("DequantizeLinear", stored, name=f"{weight.name}/DequantizeLinear", axis=1)
        return add_bias(builder, builder.op("MatMul", [x, matrix], name=f"{weight.name}/MatMul"), weight)


_FORMATS: dict[str, tuple[MakeFormat, str]] = {
    "fp32": (lambda _: StandardFloat(), "32-bit floats: the reference"),
    "fp16": (lambda _: StandardFloat(ir.DataType.FLOAT16), "16-bit floats on disk, computed as 32-bit ones"),
    "int8": (
        lambda calibration: DequantizedInt8(gptq(calibration)),
        "8-bit weights, one scale a channel (DequantizeLinear); computed as 32-bit floats",
    ),
    "q8": (WEIGHTS["q8"], "8-bit weights, one scale a channel, activations quantized at run time (MatMulInteger)"),
}


def portable_recipes(recipes: Sequence[Recipe]) -> list[Recipe]:
    """Recipes for the same precisions in standard ONNX operators alone.

    Raises:
        ExportError: one of them has no standard form.
    """
    other = [recipe.name for recipe in recipes if recipe.name not in _FORMATS]
    if other:
        raise ExportError(
            f"--portable has no {', '.join(other)}: standard operators know only {', '.join(_FORMATS)}; "
            f"try --precisions {','.join(_FORMATS)}"
        )
    return [_portable(recipe) for recipe in recipes]


def _portable(recipe: Recipe) -> Recipe:
    make_format, summary = _FORMATS[recipe.name]
    return replace(recipe, precision=replace(recipe.precision, summary=summary), make_format=make_format)
