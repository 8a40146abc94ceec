"""The portable graph has standard operators alone, and onnx's own evaluator computes with it what PyTorch computes."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from export.bundle import export_bundle
from export.errors import ExportError
from export.graph import build_graph
from export.portable import DequantizedInt8, StandardFloat, portable_recipes
from export.precisions import parse_precisions
from export.standard_operators import StandardOperators
from export.weight_formats import DynamicInt8
from model import Checkpoint
from runtime import LanguageModel, SamplingOptions
from runtime.bundle import Bundle
from runtime.engine.session import DecoderSession
from tests.export.graphs import BASE, CHANGES, Graph, make_checkpoint, relative_difference
from tests.goldens.make_tiny_bundle import VOCAB_SIZE, make_tokenizer

TOLERANCE = 1e-4
BATCH, LENGTH = 2, 12


class ReferenceGraph(Graph):
    """A portable graph in the reference evaluator instead of onnxruntime."""

    def __init__(self, checkpoint, weight_format) -> None:
        self.config = checkpoint.config
        self.model = ir.to_proto(build_graph(checkpoint, weight_format, operators=StandardOperators))
        self.session = ReferenceEvaluator(self.model)


@pytest.fixture(scope="module", params=CHANGES, ids=str)
def case(request, tmp_path_factory):
    """A graph, ids [batch, length] and PyTorch's logits for them."""
    checkpoint, model = make_checkpoint(tmp_path_factory.mktemp("portable") / "checkpoint", request.param)
    ids = np.random.default_rng(0).integers(0, BASE["vocab_size"], (BATCH, LENGTH))
    with torch.inference_mode():
        expected = model(torch.tensor(ids)).numpy()
    return ReferenceGraph(checkpoint, StandardFloat()), ids, expected


def test_only_standard_operators_and_valid_to_the_checker(case):
    graph, _, _ = case
    assert {(opset.domain, opset.version <= 23) for opset in graph.model.opset_import} == {("", True)}
    onnx.checker.check_model(graph.model, full_check=True)


def test_every_dequantization_says_its_zero_points(tmp_path):
    """Where onnxruntime makes such weights unsigned (CPUs without VNNI), it refuses a channel scale without them."""
    checkpoint, _ = make_checkpoint(tmp_path, {})
    graph = build_graph(checkpoint, DequantizedInt8(), operators=StandardOperators).graph
    nodes = [node for node in graph if node.op_type == "DequantizeLinear"]
    assert nodes
    for node in nodes:
        assert node.inputs[2].const_value.shape == node.inputs[1].const_value.shape


def test_prefill(case):
    graph, ids, expected = case
    assert relative_difference(graph(ids)[0], expected) <= TOLERANCE


@pytest.mark.parametrize("cuts", [[1], [7, 8, 9, 10, 11], [5, 6, 9]], ids=["one first", "decode", "chunks"])
def test_the_tokens_may_come_in_pieces(case, cuts):
    graph, ids, expected = case
    parts, cache = [], None
    for chunk in np.split(ids, cuts, axis=1):
        logits, cache = graph(chunk, cache)
        parts.append(logits)
    assert relative_difference(np.concatenate(parts, axis=1), expected) <= TOLERANCE


def test_a_right_padded_batch_and_the_ragged_decode_after_it(case):
    graph, ids, expected = case
    lengths = np.array([4, 9])
    padded = np.where(np.arange(9) < lengths[:, None], ids[:, :9], 0)
    logits, cache = graph(padded, mask=(np.arange(9) < lengths[:, None]).astype(np.int64))
    for row, length in enumerate(lengths):
        assert relative_difference(logits[row, :length], expected[row, :length]) <= TOLERANCE
    for at in (lengths, lengths + 1):
        mask = (np.arange(at.max() + 1) <= at[:, None]).astype(np.int64)
        logits, cache = graph(ids[np.arange(BATCH), at][:, None], cache, mask=mask, positions=at[:, None])
        assert relative_difference(logits[:, 0], expected[np.arange(BATCH), at]) <= TOLERANCE


@pytest.mark.parametrize(("keep", "kept"), [(0, LENGTH), (1, 1), (LENGTH + 3, LENGTH)])
def test_the_head_runs_for_the_positions_that_are_asked_for(case, keep, kept):
    graph, ids, expected = case
    logits, _ = graph(ids, keep=keep)
    assert logits.shape == (BATCH, kept, BASE["vocab_size"])
    assert relative_difference(logits, expected[:, -kept:]) <= TOLERANCE


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("weight_format", [DequantizedInt8(), DynamicInt8()], ids=["int8", "q8"])
def test_quantized_weights_need_no_other_operators(tmp_path, weight_format, tied):
    checkpoint, model = make_checkpoint(tmp_path, {"tie_word_embeddings": tied, "attention_bias": True})
    graph = ReferenceGraph(checkpoint, weight_format)
    assert [opset.domain for opset in graph.model.opset_import] == [""]
    ids = np.random.default_rng(0).integers(0, BASE["vocab_size"], (1, LENGTH))
    with torch.inference_mode():
        expected = model(torch.tensor(ids)).numpy()
    found = graph(ids)[0]
    cosine = float((found * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected))
    assert cosine > 0.98


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """The same checkpoint as an ordinary bundle and as a portable one."""
    folder = tmp_path_factory.mktemp("bundles")
    make_checkpoint(folder / "checkpoint", {"vocab_size": VOCAB_SIZE, "bos_token_id": 0})
    make_tokenizer().save(str(folder / "checkpoint" / "tokenizer.json"))
    for name, portable in (("ordinary", False), ("portable", True)):
        export_bundle(
            Checkpoint(folder / "checkpoint"),
            folder / name,
            parse_precisions("fp32,fp16,int8,q8"),
            source="test",
            portable=portable,
            progress=False,
        )
    return folder / "ordinary", folder / "portable"


def test_our_runtime_runs_it_with_a_growing_cache_and_the_same_text(bundles):
    assert not DecoderSession(Bundle.open(bundles[1]), "fp32").in_place
    ordinary, portable = (
        LanguageModel.load(bundle, precision="fp32").generate("The cat", SamplingOptions(temperature=0))
        for bundle in bundles
    )
    assert portable.token_ids == ordinary.token_ids


def test_the_manifest_and_other_engines_are_told(bundles):
    manifest = json.loads((bundles[1] / "manifest.json").read_text())
    assert (manifest["operators"], manifest["in_place_cache"]) == ("standard ONNX", False)
    precisions = manifest["precisions"]
    assert all(entry["vocabulary_tables"] == 1 for entry in precisions.values())
    assert precisions["int8"]["weight_bytes_by_type"]["float32"] == 4 * VOCAB_SIZE * BASE["hidden_size"]  # the head
    assert not json.loads((bundles[1] / "genai_config.json").read_text())["search"]["past_present_share_buffer"]


def test_a_precision_without_a_standard_form_is_refused():
    with pytest.raises(ExportError, match=r"no q4.*fp32,fp16,int8,q8"):
        portable_recipes(parse_precisions("fp32,q4"))
