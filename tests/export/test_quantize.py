"""Eight bits: errors stay within half a step, and the operators compute what the numbers say."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from export.coverage import measure_coverage
from export.graph_builder import GraphBuilder
from export.quantize import ZERO_POINT, quantize_blockwise, quantize_per_channel
from export.weight_formats import BlockwiseInt8, DynamicInt8, Float32, Weight
from tests.export.graphs import CHANGES, Graph, make_checkpoint, relative_difference


def random_weight(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(rows * columns).standard_normal((rows, columns), np.float32)


def run_linear(weight_format, weight: np.ndarray, x: np.ndarray, path) -> np.ndarray:
    """x through one linear layer of a format."""
    builder = GraphBuilder("linear")
    value = builder.input("x", ir.DataType.FLOAT, ["rows", weight.shape[1]])
    y = weight_format.linear(builder, value, Weight("layer", *weight.shape, lambda: weight))
    builder.output(y, "y", ir.DataType.FLOAT, ["rows", weight.shape[0]])
    ir.save(builder.model("test", "0"), path)
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize("block_size", [16, 32, 64])
@pytest.mark.parametrize("shape", [(5, 64), (7, 172), (3, 10)], ids=str)
def test_a_blockwise_weight_is_off_by_half_a_step_at_most(shape, block_size):
    weight = random_weight(*shape)
    quantized, scales = quantize_blockwise(weight, block_size)
    blocks = -(-shape[1] // block_size)
    assert quantized.shape == (shape[0], blocks, block_size)
    assert scales.shape == (shape[0], blocks)
    restored = (quantized.astype(np.float32) - ZERO_POINT) * scales[..., None]
    error = np.abs(restored.reshape(shape[0], -1)[:, : shape[1]] - weight)
    steps = np.repeat(scales, block_size, axis=1)[:, : shape[1]]
    assert (error <= steps * 0.5001).all()


def test_a_per_channel_weight_is_off_by_half_a_step_at_most_and_lies_transposed():
    weight = random_weight(7, 30)
    quantized, scales = quantize_per_channel(weight)
    assert quantized.shape == (30, 7)
    assert (np.abs(quantized.T * scales[:, None] - weight) <= scales[:, None] * 0.5001).all()


def test_zeros_stay_zeros():
    weight = np.zeros((3, 32), np.float32)
    assert (quantize_blockwise(weight, 16)[0] == ZERO_POINT).all()
    assert not quantize_per_channel(weight)[0].any()


@pytest.mark.parametrize("block_size", [0, 8, 24, 48])
def test_a_block_size_that_the_operator_does_not_take_is_refused(block_size):
    with pytest.raises(ValueError, match="power of two"):
        quantize_blockwise(random_weight(2, 64), block_size)


@pytest.mark.parametrize("columns", [64, 172])
def test_the_blockwise_product_is_that_of_the_restored_weights(columns, tmp_path):
    weight, x = random_weight(24, columns), random_weight(5, columns)
    quantized, scales = quantize_blockwise(weight, 16)
    restored = ((quantized.astype(np.float32) - ZERO_POINT) * scales[..., None]).reshape(24, -1)[:, :columns]
    y = run_linear(BlockwiseInt8(16), weight, x, tmp_path / "linear.onnx")
    # What remains is the rounding of the activations to 8 bits.
    assert relative_difference(y, x @ restored.T) < 0.02


def test_q8_is_what_onnxruntimes_quantize_dynamic_makes_of_the_same_product(tmp_path):
    weight, x = random_weight(24, 64), random_weight(5, 64)
    run_linear(Float32(), weight, x, tmp_path / "fp32.onnx")
    quantize_dynamic(tmp_path / "fp32.onnx", tmp_path / "theirs.onnx", per_channel=True, weight_type=QuantType.QInt8)
    theirs = ort.InferenceSession(str(tmp_path / "theirs.onnx")).run(None, {"x": x})[0]
    assert np.allclose(run_linear(DynamicInt8(), weight, x, tmp_path / "ours.onnx"), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weight_format", [BlockwiseInt8(16), DynamicInt8()], ids=["int8", "q8"])
@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_every_configuration_stays_close_in_8_bits_on_every_path(weight_format, changes, tmp_path):
    checkpoint, model = make_checkpoint(tmp_path / "checkpoint", changes)
    graph = Graph(checkpoint, weight_format, tmp_path / "model.onnx")
    ids = np.random.default_rng(0).integers(0, graph.config.vocab_size, (1, 24))
    with torch.inference_mode():
        expected = model(torch.tensor(ids)).numpy()
    whole, _ = graph(ids)
    assert relative_difference(whole, expected) < 0.15
    logits, cache = graph(ids[:, :10])
    parts = [logits]
    for position in range(10, 24):
        logits, cache = graph(ids[:, position : position + 1], cache)
        parts.append(logits)
    assert relative_difference(np.concatenate(parts, axis=1), expected) < 0.15


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("weight_format", "fraction"),
    [(Float32(), 0.0), (BlockwiseInt8(16), 1.0), (DynamicInt8(), 1.0)],
    ids=["fp32", "int8", "q8"],
)
def test_the_optimized_graph_reads_8_bit_weights_and_one_table(weight_format, fraction, tied, tmp_path):
    checkpoint, _ = make_checkpoint(tmp_path / "checkpoint", {"tie_word_embeddings": tied})
    Graph(checkpoint, weight_format, tmp_path / "model.onnx")
    coverage = measure_coverage(tmp_path / "model.onnx", checkpoint.config.vocab_size, checkpoint.config.hidden_size)
    assert coverage.int8_fraction == fraction
    assert coverage.vocabulary_tables == (1 if tied else 2)


def test_coverage_sees_the_head_that_plain_quantize_dynamic_leaves_in_floats(tmp_path):
    """The fault that this project exists to avoid must show in its own measure."""
    checkpoint, _ = make_checkpoint(tmp_path / "checkpoint", {})
    graph = Graph(checkpoint, Float32(), tmp_path / "fp32.onnx")
    quantize_dynamic(
        tmp_path / "fp32.onnx",
        tmp_path / "plain.onnx",
        op_types_to_quantize=["MatMul"],
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    assert any(node.op_type == "MatMulInteger" for node in onnx.load(tmp_path / "plain.onnx").graph.node)
    coverage = measure_coverage(tmp_path / "plain.onnx", graph.config.vocab_size, graph.config.hidden_size)
    assert 0.5 < coverage.int8_fraction < 0.99
    assert coverage.weight_bytes["float32"] == graph.config.vocab_size * graph.config.hidden_size * 4
