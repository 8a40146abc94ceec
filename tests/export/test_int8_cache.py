"""A graph with a cache of int8 is the same model, in steps of its scales."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from export.bundle import export_bundle
from export.errors import ExportError
from export.int8_cache import (
    KEY_HEADROOM,
    LARGEST,
    LARGEST_FACTOR,
    VALUE_HEADROOM,
    CacheRange,
    EvenedCheckpoint,
    even_factors,
    rotation,
)
from export.portable import portable_recipes
from export.precisions import parse_precisions
from model import Checkpoint, load_checkpoint, save_checkpoint
from runtime import Bundle, DecoderSession
from tests.export.graphs import make_checkpoint, relative_difference


def cached(session, token_ids):
    cache = session.new_cache()
    session.forward(token_ids, cache)
    return [buffer[:, :, : cache.length] for buffer in cache.buffers]


def test_the_cache_holds_the_floats_in_steps_of_the_graphs_scales(int8_cache_bundle):
    """fp32's first layer sees the same tokens in both graphs, so its keys and values are the same to half a step."""
    bundle = Bundle.open(int8_cache_bundle)
    ids = np.random.default_rng(0).integers(3, bundle.shape.vocab_size, 100).tolist()
    floats, integers = (cached(DecoderSession(bundle, name), ids) for name in ("fp32", "fp32-kv8"))
    graph = ir.load(bundle.model_file("fp32-kv8")).graph
    attention = next(node for node in graph if node.op_type == "GroupQueryAttention")
    for place, (exact, stored) in enumerate(zip(floats[:2], integers[:2], strict=True)):
        assert stored.dtype == np.int8
        scale = attention.inputs[12 + place].const_value.numpy()
        assert np.abs(exact - stored * scale).max() <= scale * 0.5001
        assert np.abs(stored).max() > LARGEST / 3  # the steps are used


def test_evening_out_the_cache_changes_no_logit_of_floats(shared_data, int8_cache_bundle, tmp_path):
    checkpoint = Checkpoint(shared_data / "stories260k")
    export_bundle(checkpoint, tmp_path, parse_precisions("fp32"), source="test", calibration_tokens=0, progress=False)
    ids = list(range(3, 80))
    plain, evened = (DecoderSession(Bundle.open(folder), "fp32") for folder in (tmp_path, int8_cache_bundle))
    logits = [session.forward(ids, session.new_cache(), num_logits_to_keep=0) for session in (plain, evened)]
    assert relative_difference(*logits) <= 2e-6
    assert any(not np.array_equal(a, b) for a, b in zip(cached(plain, ids), cached(evened, ids), strict=True))


def test_keys_of_very_unequal_features_lose_no_more_than_others(shared_data, int8_cache_bundle, tmp_path):
    """A pair of features 32 times as large, which its queries undo: to one scale such keys have three bits."""
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


@pytest.mark.parametrize("head_dim", [6, 8, 25, 64, 100])
def test_a_rotation_is_orthogonal_and_mixes_evenly(head_dim):
    matrix = rotation(head_dim)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(head_dim))
    entries = matrix.abs()[matrix != 0]
    torch.testing.assert_close(entries, torch.full_like(entries, (head_dim & -head_dim) ** -0.5))


def test_how_far_features_are_lifted():
    ranges = np.array([[[8.0, 8.1, 4.1, 4.0, 0.001, 0.0]]], np.float32)
    lifted = [8.1 / 8, 1, 8.1 / 4.1, 8.1 / 4, LARGEST_FACTOR, LARGEST_FACTOR]
    assert even_factors(ranges).flatten().tolist() == pytest.approx(lifted)
    key, value = CacheRange(ranges, ranges / 4).scales(0)
    assert key.tolist() == pytest.approx([KEY_HEADROOM * 8.1 / LARGEST])
    assert value.tolist() == pytest.approx([VALUE_HEADROOM * 8.1 / 4 / LARGEST])


def test_a_cache_of_zeros_has_a_scale():
    nothing = CacheRange(*np.zeros((2, 1, 2, 4), np.float32))
    assert (even_factors(nothing.keys) == 1).all()
    assert [scale.tolist() for scale in nothing.scales(0)] == [[1.0], [1.0]]


def test_every_reader_undoes_what_its_keys_and_values_are_lifted_by(tmp_path):
    checkpoint, _ = make_checkpoint(tmp_path, {})
    config = checkpoint.config
    shape = (2, config.num_hidden_layers, config.num_key_value_heads, config.head_dim)
    ranges = np.random.default_rng(0).uniform(0.1, 9, shape).astype(np.float32)
    half = config.head_dim // 2
    ranges[0, ..., half:] = ranges[0, ..., :half]  # RoPE turns these into each other
    even = EvenedCheckpoint(checkpoint, CacheRange(*ranges))
    readers = config.num_attention_heads // config.num_key_value_heads
    for layer in range(config.num_hidden_layers):
        plain, evened = (
            {p: source.tensor(f"model.layers.{layer}.self_attn.{p}_proj.weight") for p in "qkvo"}
            for source in (checkpoint, even)
        )
        for head in range(config.num_attention_heads):
            own, shared = (
                slice(number * config.head_dim, (number + 1) * config.head_dim) for number in (head, head // readers)
            )
            for weights in (plain, evened):
                weights[f"scores {head}"] = weights["q"][own] * weights["k"][shared]
                weights[f"attended {head}"] = weights["o"][:, own] @ weights["v"][shared]
            for product in (f"scores {head}", f"attended {head}"):
                assert torch.allclose(plain[product], evened[product], rtol=1e-5, atol=1e-6)


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
