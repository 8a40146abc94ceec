"""How a weight is stored and multiplied in the graph: one class a format, the only place that names its operators.

A format emits two things: a linear layer, and the vocabulary table, which serves the embedding and (when tied) the
head from one initializer. To add a precision, add a class here and a line in `precisions.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from export.errors import ExportError
from export.graph_builder import MICROSOFT, GraphBuilder
from export.quantize import quantize_blockwise, quantize_per_channel, zero_point

# MatMulNBits with accuracy_level 4 quantizes the activations, block by block, and multiplies integers.
INTEGER_PRODUCTS = 4
# The layers whose inputs differ in size from token to token: the gated product, which has heavy tails, and the head.
# The others read normalized rows or averages of values, and gain nothing (docs/decisions/0005).
TOKENS_DIFFER = ("down_proj", "embed_tokens", "lm_head")
# From a linear layer's name to the second moment of its inputs; None for a table that no product reads.
SecondMoment = Callable[[str], np.ndarray | None]
# Stands in for the magnitude of a token whose inputs are all zero.
TINY = np.array([1e-30], np.float32)


@dataclass(frozen=True)
class Weight:
    """A matrix that is read when it is needed.

    `load()` gives float32 `[out_features, in_features]`; `bias` gives `[out_features]` where there is one.
    """

    name: str
    out_features: int
    in_features: int
    load: Callable[[], np.ndarray]
    load_bias: Callable[[], np.ndarray] | None = None


class WeightFormat(Protocol):
    """What `graph.py` asks of a format."""

    def describe(self) -> str | dict[str, Any]:
        """How weights are stored, for the manifest; by the beginning of their names where they differ."""

    def linear(self, builder: GraphBuilder, x: ir.Value, weight: Weight) -> ir.Value:
        """x [..., in_features] -> [..., out_features], bias added."""

    def embedding(self, builder: GraphBuilder, input_ids: ir.Value, table: Weight) -> ir.Value:
        """input_ids [batch, sequence] -> float32 [batch, sequence, hidden_size]."""

    def tied_head(self, builder: GraphBuilder, x: ir.Value, table: Weight) -> ir.Value:
        """x [..., hidden_size] -> [..., vocab_size], read from the embedding's own initializer."""


@dataclass(frozen=True)
class Float:
    """Plain matrices, transposed once at export into the [in, out] layout that MatMul reads.

    Stored as float32 or float16; computed in float32 either way, for that is what CPUs are fast in: the Cast of a
    float16 constant is folded when the graph is loaded.
    """

    stored: ir.DataType = ir.DataType.FLOAT

    def describe(self) -> str:
        """Their width."""
        return f"{self.stored.bitwidth}-bit floats"

    def linear(self, builder: GraphBuilder, x: ir.Value, weight: Weight) -> ir.Value:
        """MatMul (and Add)."""
        shape = (weight.in_features, weight.out_features)
        matrix = self._constant(builder, weight, shape, lambda: weight.load().T)
        return add_bias(builder, builder.op("MatMul", [x, matrix], name=f"{weight.name}/MatMul"), weight)

    def embedding(self, builder: GraphBuilder, input_ids: ir.Value, table: Weight) -> ir.Value:
        """Gather."""
        return builder.op("Gather", [self._table(builder, table), input_ids], name=f"{table.name}/Gather")

    def tied_head(self, builder: GraphBuilder, x: ir.Value, table: Weight) -> ir.Value:
        """A product with the transposed table: a Transpose node would be folded into a second copy of it."""
        matrix = self._table(builder, table)
        return builder.op("FusedMatMul", [x, matrix], name="lm_head/FusedMatMul", domain=MICROSOFT, transB=1)

    def _table(self, builder: GraphBuilder, table: Weight) -> ir.Value:
        return self._constant(builder, table, (table.out_features, table.in_features), table.load)

    def _constant(
        self, builder: GraphBuilder, weight: Weight, shape: tuple[int, int], load: Callable[[], np.ndarray]
    ) -> ir.Value:
        def load_in_range() -> np.ndarray:
            matrix = load()
            if np.abs(matrix).max() > np.finfo(self.stored.numpy()).max:
                raise ExportError(
                    f"{weight.name}.weight holds numbers beyond float16's range; export it as fp32 or int8"
                )
            return matrix

        constant = builder.lazy_constant(f"{weight.name}.weight", shape, load_in_range, self.stored)
        if self.stored == ir.DataType.FLOAT:
            return constant
        return builder.once("Cast", [constant], name=f"{weight.name}/Cast", to=ir.DataType.FLOAT)


@dataclass(frozen=True)
class Blockwise:
    """One scale a block of weights; the activations are quantized at run time, one scale a block of theirs.

    Attributes:
        block_size: weights that share a scale.
        bits: of a weight, 8 or 4.
        second_moment: with it weights are rounded by GPTQ.
        remembered: what was quantized already, by name, for one who builds several graphs of one checkpoint.
    """

    block_size: int
    bits: int = 8
    second_moment: SecondMoment | None = None
    remembered: dict[str, tuple[np.ndarray, np.ndarray]] | None = None

    def describe(self) -> str:
        """Bits, block size and rounding."""
        return f"{self.bits} bits in blocks of {self.block_size}{'' if self.second_moment is None else ', GPTQ'}"

    def linear(self, builder: GraphBuilder, x: ir.Value, weight: Weight) -> ir.Value:
        """MatMulNBits, which takes the bias too."""
        bias = None
        if weight.load_bias is not None:
            bias = builder.constant(f"{weight.name}.bias", weight.load_bias())
        return builder.op(
            "MatMulNBits",
            [x, *self._quantized(builder, weight), None, None, bias][: 6 if bias is not None else 3],
            name=f"{weight.name}/MatMulNBits",
            domain=MICROSOFT,
            K=weight.in_features,
            N=weight.out_features,
            bits=self.bits,
            block_size=self.block_size,
            accuracy_level=INTEGER_PRODUCTS,
        )

    def embedding(self, builder: GraphBuilder, input_ids: ir.Value, table: Weight) -> ir.Value:
        """Rows of the head's own bytes, times their scales.

        The table stays [vocab, blocks, block_size] as MatMulNBits reads it: a Reshape of the table would be folded into
        a second copy of it. GatherBlockQuantized would be one node instead of six, but onnxruntime-web's default build
        lacks it.
        """
        if self.bits != 8:
            raise ValueError(f"a vocabulary table has 8 bits, not {self.bits}: give it a format of its own (Mixed)")
        prefix = table.name
        quantized, scales = self._quantized(builder, table)
        rows = builder.op("Gather", [quantized, input_ids], name=f"{prefix}/Gather")
        rows = builder.op("Cast", [rows], name=f"{prefix}/Cast", to=ir.DataType.FLOAT)
        zero = builder.constant("zero_point", np.array(zero_point(self.bits), np.float32))
        rows = builder.op("Sub", [rows, zero], name=f"{prefix}/Sub")
        scale = _last_axis(builder, builder.op("Gather", [scales, input_ids], name=f"{prefix}/Gather_scales"), prefix)
        rows = builder.op("Mul", [rows, scale], name=f"{prefix}/Mul")
        padded_size = scales.shape[1] * self.block_size
        row_shape = builder.constant(f"{prefix}.row_shape", np.array([0, 0, padded_size], np.int64))
        padded = builder.op("Reshape", [rows, row_shape], name=f"{prefix}/Reshape")
        if padded_size == table.in_features:
            return padded
        bounds = [
            builder.constant(f"slice.{place}", np.array([place], np.int64)) for place in (0, table.in_features, 2)
        ]
        return builder.op("Slice", [padded, *bounds], name=f"{prefix}/Slice")

    def tied_head(self, builder: GraphBuilder, x: ir.Value, table: Weight) -> ir.Value:
        """MatMulNBits on the table."""
        return self.linear(builder, x, table)

    def _quantized(self, builder: GraphBuilder, weight: Weight) -> tuple[ir.Value, ir.Value]:
        names = f"{weight.name}.weight_quantized", f"{weight.name}.weight_scales"
        known = builder.graph.initializers
        if names[0] not in known:
            for name, array in zip(names, self._arrays(weight), strict=True):
                builder.constant(name, array)
        return known[names[0]], known[names[1]]

    def _arrays(self, weight: Weight) -> tuple[np.ndarray, np.ndarray]:
        if self.remembered is not None and weight.name in self.remembered:
            return self.remembered[weight.name]
        moment = None if self.second_moment is None else self.second_moment(weight.name)
        arrays = quantize_blockwise(weight.load(), self.block_size, self.bits, second_moment=moment)
        if self.remembered is not None:
            self.remembered[weight.name] = arrays
        return arrays


@dataclass(frozen=True)
class DynamicInt8:
    """onnxruntime's quantize_dynamic, done right: int8 weights with a scale a channel, activations scaled at run time.

    Unlike that tool it quantizes the head too, and reads the embedding from the head's bytes: the tool leaves a tied
    head in float32 behind a Transpose. And where the activations of some tokens are many times those of others, each
    token gets its own scale, so that one outlier does not cost the others their precision.

    Attributes:
        second_moment: with it weights are rounded by GPTQ.
    """

    second_moment: SecondMoment | None = None

    def describe(self) -> str:
        """Bits, scales and rounding."""
        return f"8 bits a channel{'' if self.second_moment is None else ', GPTQ'}"

    def linear(self, builder: GraphBuilder, x: ir.Value, weight: Weight) -> ir.Value:
        """DynamicQuantizeLinear, MatMulInteger and a rescaling; onnxruntime fuses them into DynamicQuantizeMatMul."""
        if not weight.name.endswith(TOKENS_DIFFER):
            return add_bias(builder, self._product(builder, x, weight), weight)
        # Divided by its largest magnitude, every token spans [-1, 1]: one scale a tensor is then one scale a token.
        prefix = weight.name
        magnitudes = builder.op("Abs", [x], name=f"{prefix}/Abs")
        last_axis = builder.constant("axis.last", np.array([-1], np.int64))
        largest = builder.op("ReduceMax", [magnitudes, last_axis], name=f"{prefix}/ReduceMax", keepdims=1)
        positive = builder.op("Max", [largest, builder.constant("tiny", TINY)], name=f"{prefix}/Max")
        product = self._product(builder, builder.op("Div", [x, positive], name=f"{prefix}/Div"), weight)
        return add_bias(builder, builder.op("Mul", [product, positive], name=f"{prefix}/Mul_token"), weight)

    def _product(self, builder: GraphBuilder, x: ir.Value, weight: Weight) -> ir.Value:
        prefix = weight.name
        matrix, scales = self._quantized(builder, weight)
        quantized, x_scale, x_zero_point = builder.op(
            "DynamicQuantizeLinear", [x], name=f"{prefix}/DynamicQuantizeLinear", outputs=3
        )
        product = builder.op("MatMulInteger", [quantized, matrix, x_zero_point], name=f"{prefix}/MatMulInteger")
        product = builder.op("Cast", [product], name=f"{prefix}/Cast", to=ir.DataType.FLOAT)
        scale = builder.op("Mul", [x_scale, scales], name=f"{prefix}/Scale")
        return builder.op("Mul", [product, scale], name=f"{prefix}/Rescale")

    def embedding(self, builder: GraphBuilder, input_ids: ir.Value, table: Weight) -> ir.Value:
        """Columns of the head's [hidden_size, vocab_size] matrix, times their scales."""
        prefix = table.name
        matrix, scales = self._quantized(builder, table)
        columns = builder.op("Gather", [matrix, input_ids], name=f"{prefix}/Gather", axis=1)
        rows = builder.op("Transpose", [columns], name=f"{prefix}/Transpose", perm=[1, 2, 0])
        rows = builder.op("Cast", [rows], name=f"{prefix}/Cast_rows", to=ir.DataType.FLOAT)
        scale = _last_axis(builder, builder.op("Gather", [scales, input_ids], name=f"{prefix}/Gather_scales"), prefix)
        return builder.op("Mul", [rows, scale], name=f"{prefix}/Dequantize")

    def tied_head(self, builder: GraphBuilder, x: ir.Value, table: Weight) -> ir.Value:
        """The linear layer of the table."""
        return self.linear(builder, x, table)

    def _quantized(self, builder: GraphBuilder, weight: Weight) -> tuple[ir.Value, ir.Value]:
        names = f"{weight.name}.weight_quantized", f"{weight.name}.weight_scales"
        known = builder.graph.initializers
        if names[0] not in known:
            moment = None if self.second_moment is None else self.second_moment(weight.name)
            for name, array in zip(names, quantize_per_channel(weight.load(), second_moment=moment), strict=True):
                builder.constant(name, array)
        return known[names[0]], known[names[1]]


@dataclass(frozen=True)
class Mixed:
    """One format for most weights and others for some.

    Attributes:
        usual: for whatever has no exception.
        exceptions: the beginning of weights' names (`lm_head`, `model.layers.0.mlp.`) -> their format.
    """

    usual: WeightFormat
    exceptions: Mapping[str, WeightFormat]

    def describe(self) -> dict[str, Any]:
        """The usual format, and the exceptions by name."""
        exceptions = {beginning: weight_format.describe() for beginning, weight_format in self.exceptions.items()}
        return {"usual": self.usual.describe(), **exceptions}

    def linear(self, builder: GraphBuilder, x: ir.Value, weight: Weight) -> ir.Value:
        """The linear layer of the weight's own format."""
        return self._format(weight).linear(builder, x, weight)

    def embedding(self, builder: GraphBuilder, input_ids: ir.Value, table: Weight) -> ir.Value:
        """The embedding of the table's own format."""
        return self._format(table).embedding(builder, input_ids, table)

    def tied_head(self, builder: GraphBuilder, x: ir.Value, table: Weight) -> ir.Value:
        """The tied head of the table's own format."""
        return self._format(table).tied_head(builder, x, table)

    def _format(self, weight: Weight) -> WeightFormat:
        matching = (found for beginning, found in self.exceptions.items() if weight.name.startswith(beginning))
        return next(matching, self.usual)


def add_bias(builder: GraphBuilder, x: ir.Value, weight: Weight) -> ir.Value:
    """X with the weight's bias added, where there is one."""
    if weight.load_bias is None:
        return x
    bias = builder.constant(f"{weight.name}.bias", weight.load_bias())
    return builder.op("Add", [x, bias], name=f"{weight.name}/Add")


def _last_axis(builder: GraphBuilder, scales: ir.Value, prefix: str) -> ir.Value:
    """[...] -> [..., 1]."""
    axis = builder.constant("axis.last", np.array([-1], np.int64))
    return builder.op("Unsqueeze", [scales, axis], name=f"{prefix}/Unsqueeze_scales")
