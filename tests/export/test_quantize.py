"""Eight bits: errors stay within half a step, and the operators compute what the numbers say."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from export.calibration import Calibration
from export.coverage import measure_coverage
from export.graph_builder import GraphBuilder
from export.precisions import WEIGHTS
from export.quantize import quantize_blockwise, quantize_per_channel, restore_blockwise, zero_point
from export.weight_formats import Blockwise, DynamicInt8, Float, Weight
from tests.export.graphs import CHANGES, Graph, make_checkpoint, open_session, relative_difference


def random_weight(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(rows * columns).standard_normal((rows, columns), np.float32)


def run_linear(weight_format, weight: np.ndarray, x: np.ndarray, path, name: str = "layer") -> np.ndarray:
    """x through one linear layer of a format."""
    builder = GraphBuilder("linear")
    value = builder.input("x", ir.DataType.FLOAT, ["rows", weight.shape[1]])
    y = weight_format.linear(builder, value, Weight(name, *weight.shape, lambda: weight))
    builder.output(y, "y", ir.DataType.FLOAT, ["rows", weight.shape[0]])
    ir.save(builder.model("test", "0"), path)
    return open_session(path).run(None, {"x": x})[0]


@pytest.mark.parametrize("block_size", [16, 32, 64])
@pytest.mark.parametrize("shape", [(5, 64), (7, 172), (3, 10)], ids=str)
def test_an_8_bit_blockwise_weight_is_off_by_half_a_step_at_most(shape, block_size):
    weight = random_weight(*shape)
    quantized, scales = quantize_blockwise(weight, block_size)
    blocks = -(-shape[1] // block_size)
    assert quantized.shape == (shape[0], blocks, block_size)
    assert scales.shape == (shape[0], blocks)
    error = np.abs(restore_blockwise(quantized, scales, shape[1]) - weight)
    assert (error <= np.repeat(scales, block_size, axis=1)[:, : shape[1]] * 0.5001).all()


@pytest.mark.parametrize("block_size", [16, 32])
@pytest.mark.parametrize("shape", [(5, 64), (7, 172)], ids=str)
def test_4_bits_beat_rounding_to_the_largest_magnitude(shape, block_size):
    weight = random_weight(*shape)
    quantized, scales = quantize_blockwise(weight, block_size, bits=4)
    assert quantized.shape == (shape[0], -(-shape[1] // block_size), block_size // 2)
    error = np.square(restore_blockwise(quantized, scales, shape[1], bits=4) - weight).sum()
    padded = np.pad(weight, ((0, 0), (0, -shape[1] % block_size))).reshape(shape[0], -1, block_size)
    plain = np.abs(padded).max(-1, keepdims=True) / 7
    assert error < 0.8 * np.square(np.rint(padded / plain) * plain - padded).sum()


def test_4_bits_restore_what_16_levels_can_say_exactly():
    levels = np.arange(-8, 8, dtype=np.float32)
    weight = np.stack([levels * 0.5, levels * -0.25, levels * 0]).repeat(2, axis=1)
    quantized, scales = quantize_blockwise(weight, 32, bits=4)
    assert np.allclose(restore_blockwise(quantized, scales, 32, bits=4), weight, atol=1e-6)


def test_a_per_channel_weight_is_off_by_half_a_step_at_most_and_lies_transposed():
    weight = random_weight(7, 30)
    quantized, scales = quantize_per_channel(weight)
    assert quantized.shape == (30, 7)
    assert (np.abs(quantized.T * scales[:, None] - weight) <= scales[:, None] * 0.5001).all()


def test_zeros_stay_zeros():
    weight = np.zeros((3, 32), np.float32)
    assert (quantize_blockwise(weight, 16)[0] == zero_point(8)).all()
    assert not restore_blockwise(*quantize_blockwise(weight, 16, bits=4), 32, bits=4).any()
    assert not quantize_per_channel(weight)[0].any()


@pytest.mark.parametrize("block_size", [0, 8, 24, 48])
def test_a_block_size_that_the_operator_does_not_take_is_refused(block_size):
    with pytest.raises(ValueError, match="power of two"):
        quantize_blockwise(random_weight(2, 64), block_size)
    with pytest.raises(ValueError, match="bits"):
        quantize_blockwise(random_weight(2, 64), 16, bits=3)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("columns", [64, 172])
def test_the_blockwise_product_is_that_of_the_restored_weights(columns, bits, tmp_path):
    weight, x = random_weight(24, columns), random_weight(5, columns)
    restored = restore_blockwise(*quantize_blockwise(weight, 16, bits), columns, bits)
    y = run_linear(Blockwise(16, bits), weight, x, tmp_path / "linear.onnx")
    # What remains is the rounding of the activations to 8 bits.
    assert relative_difference(y, x @ restored.T) < 0.02


def test_tokens_of_very_different_size_keep_their_precision_in_q8(tmp_path):
    """The gated product has such tokens; with one scale for all, the small ones would be rounded away."""
    weight, x = random_weight(24, 64), random_weight(3, 64) * np.array([[1e-3], [0], [1e3]], np.float32)
    y = run_linear(DynamicInt8(), weight, x, tmp_path / "token.onnx", name="model.layers.0.mlp.down_proj")
    plain = run_linear(DynamicInt8(), weight, x, tmp_path / "tensor.onnx", name="model.layers.0.mlp.up_proj")
    for row in (0, 2):
        assert relative_difference(y[row], x[row] @ weight.T) < 0.02
    assert relative_difference(plain[0], x[0] @ weight.T) > 0.9
    assert not y[1].any()


def test_q8_is_what_onnxruntimes_quantize_dynamic_makes_of_the_same_product(tmp_path):
    weight, x = random_weight(24, 64), random_weight(5, 64)
    run_linear(Float(), weight, x, tmp_path / "fp32.onnx")
    quantize_dynamic(tmp_path / "fp32.onnx", tmp_path / "theirs.onnx", per_channel=True, weight_type=QuantType.QInt8)
    theirs = open_session(tmp_path / "theirs.onnx").run(None, {"x": x})[0]
    assert np.allclose(run_linear(DynamicInt8(), weight, x, tmp_path / "ours.onnx"), theirs, rtol=1e-5, atol=1e-5)


def with_restored_weights(model, precision: str):
    """The PyTorch model that a blockwise graph stands for: what is left is the rounding of the activations."""
    if precision not in ("int8", "q4"):
        return model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("proj.weight") or "embed_tokens" in name or "lm_head" in name:
                bits = 4 if precision == "q4" and name.endswith("proj.weight") else 8
                weight = parameter.numpy()
                restored = restore_blockwise(*quantize_blockwise(weight, 16, bits), weight.shape[1], bits)
                parameter.copy_(torch.from_numpy(restored))
    return model


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 0.01), ("int8", 0.15), ("q8", 0.15), ("q4", 0.15)])
@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_every_configuration_stays_close_in_every_precision_on_every_path(precision, tolerance, changes, tmp_path):
    checkpoint, model = make_checkpoint(tmp_path / "checkpoint", changes)
    weight_format = WEIGHTS[precision](Calibration(checkpoint, tokens=0))
    graph = Graph(checkpoint, weight_format, tmp_path / "model.onnx")
    ids = np.random.default_rng(0).integers(0, graph.config.vocab_size, (1, 24))
    with torch.inference_mode():
        expected = with_restored_weights(model, precision)(torch.tensor(ids)).numpy()
    whole, _ = graph(ids)
    assert relative_difference(whole, expected) < tolerance
    logits, cache = graph(ids[:, :10])
    parts = [logits]
    for position in range(10, 24):
        logits, cache = graph(ids[:, position : position + 1], cache)
        parts.append(logits)
    assert relative_difference(np.concatenate(parts, axis=1), expected) < tolerance


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("precision", "types"),
    [
        ("fp32", {"float32"}),
        ("fp16", {"float32"}),
        ("int8", {"int8"}),
        ("q8", {"int8"}),
        ("q4", {"int4", "int8"}),
    ],
)
def test_the_optimized_graph_reads_the_weights_as_promised_and_one_table(precision, types, tied, tmp_path):
    checkpoint, _ = make_checkpoint(tmp_path / "checkpoint", {"tie_word_embeddings": tied})
    Graph(checkpoint, WEIGHTS[precision](Calibration(checkpoint, tokens=0)), tmp_path / "model.onnx")
    coverage = measure_coverage(tmp_path / "model.onnx")
    assert coverage.weight_bytes.keys() == types
    assert (coverage.int8_fraction == 1) == (types == {"int8"})
    assert coverage.vocabulary_tables == (1 if tied else 2)


def test_coverage_sees_the_head_that_plain_quantize_dynamic_leaves_in_floats(tmp_path):
    """The fault that this project exists to avoid must show in its own measure."""
    checkpoint, _ = make_checkpoint(tmp_path / "checkpoint", {})
    graph = Graph(checkpoint, Float(), tmp_path / "fp32.onnx")
    quantize_dynamic(
        tmp_path / "fp32.onnx",
        tmp_path / "plain.onnx",
        op_types_to_quantize=["MatMul"],
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    assert any(node.op_type == "MatMulInteger" for node in onnx.load(tmp_path / "plain.onnx").graph.node)
    coverage = measure_coverage(tmp_path / "plain.onnx")
    assert 0.5 < coverage.int8_fraction < 0.99
    assert coverage.weight_bytes["float32"] == graph.config.vocab_size * graph.config.hidden_size * 4
