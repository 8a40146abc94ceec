"""What matrix products really read, counted in the graph that onnxruntime made of ours.

A quantized file proves nothing by its size: an optimizer may fold a transposition into a second copy, or a head may
still multiply floats. So the graph is optimized as it is at load time, saved, and its constant weights are counted.
"""

from __future__ import annotations

import tempfile
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from runtime import contract

# Operator -> position of its weight input.
WEIGHT_INPUT = {
    "DynamicQuantizeMatMul": 1,
    "FusedMatMul": 1,
    "Gemm": 1,
    "MatMul": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "MatMulNBits": 1,
    "QLinearMatMul": 3,
}
ERRORS_ONLY = 3


@dataclass(frozen=True)
class Coverage:
    """Weights in the optimized graph.

    Attributes:
        weight_bytes: type -> bytes of the constant weights that matrix products read in one step (scales not counted).
        vocabulary_tables: different constants that the embedding looks rows up in and the head multiplies with; one is
            right for a tied model.
    """

    weight_bytes: dict[str, int]
    vocabulary_tables: int

    @property
    def int8_fraction(self) -> float:
        """Share of those bytes that are 8-bit integers."""
        return self.weight_bytes.get("int8", 0) / max(1, sum(self.weight_bytes.values()))


def measure_coverage(model_path: Path) -> Coverage:
    """Optimize a graph as a session would, and count."""
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.optimized_model_filepath = str(optimized)
        options.add_session_config_entry("session.disable_prepacking", "1")  # opened only to be optimized
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.data")
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        ort.InferenceSession(str(model_path), options, ["CPUExecutionProvider"])
        return _count(ir.load(optimized).graph)


def _count(graph: ir.Graph) -> Coverage:
    weight_bytes: Counter[str] = Counter()
    for node in graph:
        position = WEIGHT_INPUT.get(node.op_type)
        weight = node.inputs[position] if position is not None else None
        if weight is None:
            continue
        if weight.const_value is not None:
            weight_bytes[_stored_type(node, weight)] += weight.const_value.nbytes
        elif (dequantized := _dequantized(weight)) is not None:
            weight_bytes["float32"] += dequantized.const_value.size * np.dtype(np.float32).itemsize
    return Coverage(dict(weight_bytes), len(_embedding_tables(graph) | _head_tables(graph)))


def _embedding_tables(graph: ir.Graph) -> set[str]:
    """The constants in which rows are looked up by token id; scales, which have fewer numbers, are not tables."""
    token_ids = next(value for value in graph.inputs if value.name == contract.INPUT_IDS)
    gathers = [node for node in token_ids.consumers() if node.op_type == "Gather" and node.inputs[1] is token_ids]
    sizes = {str(node.inputs[0].name): node.inputs[0].const_value.size for node in gathers if _has_constant(node)}
    return {name for name, size in sizes.items() if size == max(sizes.values())}


def _has_constant(node: ir.Node) -> bool:
    return node.inputs[0] is not None and node.inputs[0].const_value is not None


def _head_tables(graph: ir.Graph) -> set[str]:
    """The constant that the product nearest to the logits multiplies with."""
    logits = next(value for value in graph.outputs if value.name == contract.LOGITS)
    waiting = deque([logits.producer()])
    while waiting:
        node = waiting.popleft()
        if node is None:
            continue
        weight = node.inputs[WEIGHT_INPUT[node.op_type]] if node.op_type in WEIGHT_INPUT else None
        constant = weight if weight is None or weight.const_value is not None else _dequantized(weight)
        if constant is not None:
            return {str(constant.name)}
        waiting += [value.producer() for value in node.inputs if value is not None]
    return set()


def _dequantized(weight: ir.Value) -> ir.Value | None:
    """The constant that is made floats at every step to be this weight, if it is one."""
    producer = weight.producer()
    if producer is None or producer.op_type != "DequantizeLinear" or producer.inputs[0].const_value is None:
        return None
    return producer.inputs[0]


def _stored_type(node: ir.Node, weight: ir.Value) -> str:
    if node.op_type == "MatMulNBits":
        return f"int{node.attributes['bits'].as_int()}"
    if weight.dtype in (ir.DataType.INT8, ir.DataType.UINT8):
        return "int8"
    return weight.dtype.numpy().name
