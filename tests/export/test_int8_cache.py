"""A graph with a cache of int8 is the same model, in steps of its scales."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from export.bundle import export_bundle
from export.cache_layout import LARGEST, CacheLayout, LaidOutCheckpoint
from export.calibration import Calibration
from export.errors import ExportError
from export.int8_cache import KEY_SCALE, VALUE_SCALE, write_int8_cache_graph
from export.portable import portable_recipes
from export.precisions import parse_precisions
from export.weight_formats import Blockwise, DynamicInt8, Float
from model import Checkpoint, load_checkpoint, save_checkpoint
from runtime import Bundle, DecoderSession
from tests.export.graphs import CHANGES, Graph, make_checkpoint, open_session, relative_difference
from tests.export.test_cache_layout import LAYOUTS


def cached(session, token_ids):
    cache = session.new_cache()
    session.forward(token_ids, cache)
    return [buffer[:, :, : cache.length] for buffer in cache.buffers]


def test_the_cache_holds_the_floats_in_the_graphs_steps(int8_cache_bundle):
    """fp32's first layer sees the same tokens in both graphs, so its keys and values are the same to half a step."""
    bundle = Bundle.open(int8_cache_bundle)
    ids = np.random.default_rng(0).integers(3, bundle.shape.vocab_size, 100).tolist()
    floats, integers = (cached(DecoderSession(bundle, name), ids) for name in ("fp32", "fp32-kv8"))
    graph = ir.load(bundle.model_file("fp32-kv8")).graph
    attention = next(node for node in graph if node.op_type == "GroupQueryAttention")
    shift = attention.inputs[2].producer().inputs[1].const_value.numpy().reshape(1, -1, 1, bundle.shape.head_dim)
    for place, shifts, exact, stored in zip((KEY_SCALE, VALUE_SCALE), (0, shift), floats, integers, strict=False):
        assert stored.dtype == np.int8
        scales = attention.inputs[place].const_value.numpy()
        assert (np.abs(exact + shifts - stored * scales) <= scales * 0.5001 + 1e-6).all()
        assert np.abs(stored).max() > LARGEST / 3  # the steps are used


def without_steps(graph_file, out):
    """The graph of an int8 cache with what it shifts, and a cache of floats again."""
    model = ir.load(graph_file)
    for node in model.graph:
        if node.op_type == "GroupQueryAttention":
            node.resize_inputs(KEY_SCALE)
            for name in ("k_quant_type", "v_quant_type", "kv_cache_bit_width"):
                del node.attributes[name]
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.dtype == ir.DataType.INT8:
            value.type = ir.TensorType(ir.DataType.FLOAT)
    ir.save(model, out)


SHIFTED = [*CHANGES, *LAYOUTS, {"qkv_bias": True}, {"sliding_window": 5}]


@pytest.mark.parametrize("changes", SHIFTED, ids=str)
def test_what_is_subtracted_from_the_cache_changes_no_logit(changes, tmp_path):
    plain, shifted, layout = _graphs(changes, Float(), tmp_path)
    ids = np.random.default_rng(0).integers(3, 96, (2, 40))
    (expected, cache), (found, shifted_cache) = plain(ids), shifted(ids)
    assert relative_difference(found, expected) <= 1e-5
    assert not np.allclose(cache[1], shifted_cache[1], atol=1e-3)
    assert np.allclose(cache[0], shifted_cache[0], atol=1e-3) == (not layout.is_shifted[0].any())
    before = shifted(ids[:1, :10])[1]
    later, _ = shifted(ids[:1, 10:], before)
    assert relative_difference(later, expected[:1, 10:]) <= 1e-5  # by the position, not by the place in the call


@pytest.mark.parametrize("changes", [{}, {"attention_bias": True}], ids=str)
@pytest.mark.parametrize("weight_format", [Blockwise(16), DynamicInt8()], ids=["blocks", "channels"])
def test_nor_does_it_take_rounded_weights_farther_from_floats(weight_format, changes, tmp_path):
    """Attention's output is rounded on its way into o_proj, and what was subtracted is given back after that."""
    plain, shifted, _ = _graphs(changes, weight_format, tmp_path)
    ids = np.random.default_rng(0).integers(3, 96, (1, 60))
    expected, _ = _graphs(changes, Float(), tmp_path / "floats")[0](ids)
    distances = [np.square(graph(ids)[0] - expected).mean() for graph in (plain, shifted)]
    assert distances[1] <= 1.5 * distances[0]


def _graphs(changes, weight_format, folder):
    """The graph of a random model, the same with the shifts of its int8 cache, and their layout."""
    checkpoint, _ = make_checkpoint(folder, changes)
    layout = CacheLayout.of(Calibration(checkpoint, tokens=256, progress=False).cache_statistics, checkpoint.config)
    weights = LaidOutCheckpoint(checkpoint, layout)
    plain, shifted = (Graph(weights, weight_format, folder / f"{name}.onnx") for name in ("plain", "shifted"))
    write_int8_cache_graph(folder / "plain.onnx", folder / "kv8.onnx", layout, weights)
    without_steps(folder / "kv8.onnx", folder / "shifted.onnx")
    shifted.session = open_session(folder / "shifted.onnx")
    return plain, shifted, layout


def test_laying_out_the_cache_changes_no_logit_of_floats(shared_data, int8_cache_bundle, tmp_path):
    checkpoint = Checkpoint(shared_data / "stories260k")
    export_bundle(checkpoint, tmp_path, parse_precisions("fp32"), source="test", calibration_tokens=0, progress=False)
    ids = list(range(3, 80))
    plain, laid_out = (DecoderSession(Bundle.open(folder), "fp32") for folder in (tmp_path, int8_cache_bundle))
    logits = [session.forward(ids, session.new_cache(), num_logits_to_keep=0) for session in (plain, laid_out)]
    assert relative_difference(*logits) <= 2e-6
    assert any(not np.array_equal(a, b) for a, b in zip(cached(plain, ids), cached(laid_out, ids), strict=True))


def test_keys_of_very_unequal_features_lose_no_more_than_others(shared_data, int8_cache_bundle, tmp_path):
    """A pair of features 32 times as large, which its queries undo: with one step for all such keys have three bits."""
    model = load_checkpoint(shared_data / "stories260k")
    config = model.config
    pair = [0, config.head_dim // 2]
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.k_proj.weight.view(-1, config.head_dim, config.hidden_size)[:, pair] *= 32
            block.self_attn.q_proj.weight.view(-1, config.head_dim, config.hidden_size)[:, pair] /= 32
    save_checkpoint(model, tmp_path / "uneven", side_files=Checkpoint(shared_data / "stories260k").side_files())
    out = tmp_path / "bundle"
    precisions = parse_precisions("fp32-kv8")
    export_bundle(Checkpoint(tmp_path / "uneven"), out, precisions, source="test", calibration_tokens=0, progress=False)
    ids = list(range(3, 80))
    errors = []
    for bundle in (Bundle.open(int8_cache_bundle), Bundle.open(out)):
        sessions = [DecoderSession(bundle, name) for name in ("fp32", "fp32-kv8")]
        floats, integers = (s.forward(ids, s.new_cache(), num_logits_to_keep=0) for s in sessions)
        errors.append(np.abs(floats - integers).mean())
    assert errors[1] < 3 * errors[0]  # a power of two comes within a bit of the best factor


def test_large_weights_are_stored_once(shared_data, tmp_path, monkeypatch):
    monkeypatch.setattr("export.bundle.EMBEDDED_BYTES", 1000)
    checkpoint, precisions = Checkpoint(shared_data / "stories260k"), parse_precisions("int8-kv8")
    manifest = export_bundle(checkpoint, tmp_path, precisions, source="test", calibration_tokens=512, progress=False)
    files = {name for name in manifest["files"] if name.startswith("onnx/")}
    assert files == {"onnx/model_int8.onnx", "onnx/model_int8.onnx_data", "onnx/model_int8_kv8.onnx"}
    int8, kv8 = manifest["precisions"]["int8"], manifest["precisions"]["int8-kv8"]
    assert kv8["int8_weight_fraction"] == 1
    assert 0 < kv8["file_bytes"] - int8["file_bytes"] < 10_000
    bundle = Bundle.open(tmp_path)
    assert bundle.default_precision == "int8"
    assert bundle.file_bytes("int8-kv8") == kv8["file_bytes"]
    session = DecoderSession(bundle, "int8-kv8")
    assert np.isfinite(session.forward([1, 2, 3], session.new_cache())).all()


def test_other_engines_have_no_such_cache():
    with pytest.raises(ExportError, match="--portable has no int8-kv8"):
        portable_recipes(parse_precisions("int8-kv8"))


def test_the_precision_of_the_weights_comes_first():
    names = [p.name for p in parse_precisions("int8-kv8,fp32,q4-kv8,int8")]
    assert names == ["int8", "int8-kv8", "fp32", "q4", "q4-kv8"]
