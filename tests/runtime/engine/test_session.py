"""A graph that breaks the contract is refused when it is opened; one that fails later says so in one line."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from runtime import Bundle, DecoderSession, LanguageModel, contract
from runtime.errors import BundleError, OptionError, PromptError
from tests.runtime.files import edit_json
from tests.runtime.options import endless


@pytest.fixture
def graph(broken_bundle):
    """The file of the broken bundle's fp32 graph."""
    return broken_bundle / "onnx" / "model.onnx"


def opened(folder, **options):
    return DecoderSession(Bundle.open(folder), "fp32", threads=1, **options)


@pytest.mark.parametrize("keep", [0, 1, 3, 5, 99])
@pytest.mark.parametrize("in_place", [True, False])
def test_the_last_n_logits_are_those_of_the_whole(keep, in_place, tiny_bundle):
    session, ids = opened(tiny_bundle, in_place=in_place), [5, 6, 7, 8, 9]
    whole = session.forward(ids, session.new_cache(), num_logits_to_keep=0)
    kept = session.forward(ids, session.new_cache(), num_logits_to_keep=keep)
    assert whole.shape == (5, 320)
    np.testing.assert_allclose(kept, whole[-keep:] if keep else whole, rtol=1e-5, atol=1e-5)


def test_logits_are_the_callers_and_stay_as_they_are(tiny_bundle):
    session = opened(tiny_bundle)
    cache = session.new_cache()
    first = session.forward([5], cache)
    before = first.copy()
    session.forward([6], cache)
    np.testing.assert_array_equal(first, before)


def test_refused_tokens_leave_the_cache_as_it_was(tiny_bundle):
    session = opened(tiny_bundle)
    cache = session.new_cache()
    session.forward([5, 6], cache)
    for bad in ([], [-1], [320], [2**70], [0.5], ["a"], [7] * 191):
        with pytest.raises(PromptError):
            session.forward(bad, cache)
        assert cache.length == 2


def test_a_batch_invariant_session_that_fails_leaves_the_cache_as_it_was(broken_bundle):
    edit_json(broken_bundle / "config.json", max_position_embeddings=300)  # the graph has 192
    session = opened(broken_bundle, batch_invariant=True)
    cache = session.new_cache()
    session.forward([7] * 191, cache)
    session.forward([8], cache)
    with pytest.raises(BundleError, match=r"model\.onnx fails in onnxruntime"):
        session.forward([9], cache)
    assert cache.token_ids == [7] * 191 + [8]


@pytest.mark.parametrize("chunk_tokens", [1, 7, 16, 64, 191, 192, 500])
@pytest.mark.parametrize("keep", [0, 1, 3, 70])
@pytest.mark.parametrize("in_place", [True, False])
def test_chunks_give_the_logits_of_one_pass(chunk_tokens, keep, in_place, tiny_bundle):
    ids = np.random.default_rng(0).integers(0, 320, 192)
    whole = opened(tiny_bundle, chunk_tokens=1000)
    chunked = opened(tiny_bundle, in_place=in_place, chunk_tokens=chunk_tokens)
    cache = chunked.new_cache()
    found = chunked.forward(ids, cache, num_logits_to_keep=keep)
    expected = whole.forward(ids, whole.new_cache(), num_logits_to_keep=keep)
    assert cache.token_ids == ids.tolist()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_chunks_that_cannot_be_are_refused(tiny_bundle):
    with pytest.raises(OptionError, match="chunk_tokens must be at least 1, not 0"):
        opened(tiny_bundle, chunk_tokens=0)
    with pytest.raises(OptionError, match="multiple of 16"):
        opened(tiny_bundle, batch_invariant=True, chunk_tokens=100)


def test_a_step_gives_the_bits_of_a_pass_whatever_was_bound_before(tiny_bundle):
    session = opened(tiny_bundle)
    ids = np.random.default_rng(1).integers(0, 320, 130).tolist()
    caches = [session.new_cache(), session.new_cache(130)]  # one that moves its buffers, and one that need not
    for place, token_id in enumerate(ids):
        if place == 100:
            for cache in caches:
                cache.trim(70)
        step, plain = session.forward([token_id], caches[0]), None
        cache = caches[1]
        plain = session._run_chunk(np.array([[token_id]]), cache, 1)
        cache.add([token_id])
        np.testing.assert_array_equal(step, plain)


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_below_one_are_refused(threads, tiny_bundle):
    with pytest.raises(OptionError, match=f"threads must be at least 1, not {threads}"):
        DecoderSession(Bundle.open(tiny_bundle), "fp32", threads=threads)


def test_the_number_of_threads_changes_no_token(tiny_bundle):
    models = (LanguageModel.load(tiny_bundle, threads=threads) for threads in (1, 2))
    one, two = (model.generate([9, 8], endless(max_new_tokens=30)) for model in models)
    assert one.token_ids == two.token_ids


@pytest.mark.parametrize("kept", [0, 10, 1000, 100_000])
def test_a_graph_that_was_cut_off_is_refused_even_without_a_manifest(kept, graph, broken_bundle, capfd):
    (broken_bundle / "manifest.json").unlink()
    graph.write_bytes(graph.read_bytes()[:kept])
    with pytest.raises(BundleError, match=r"model\.onnx cannot be opened by onnxruntime") as caught:
        opened(broken_bundle)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("contents", [b"not a graph", bytes(5000), b"\xff" * 5000])
def test_a_file_that_is_no_graph_is_refused(contents, graph, broken_bundle):
    graph.write_bytes(contents)
    with pytest.raises(BundleError, match="cannot be opened"):
        opened(broken_bundle)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_hidden_layers": 3}, r"missing inputs past_key_values\.2\.key, past_key_values\.2\.value"),
        ({"num_hidden_layers": 1}, r"unknown inputs past_key_values\.1\.key"),
        ({"num_key_value_heads": 2}, "disagree on num_key_value_heads: 1 and 2"),
        ({"head_dim": 8}, "disagree on head_dim: 16 and 8"),
        ({"vocab_size": 400}, "disagree on vocab_size: 320 and 400"),
        ({"vocab_size": 100}, "disagree on vocab_size: 320 and 100"),
    ],
)
def test_a_config_that_contradicts_the_graph_is_refused_at_opening(changes, words, broken_bundle):
    edit_json(broken_bundle / "config.json", **changes)
    with pytest.raises(BundleError, match=words):
        opened(broken_bundle)


@pytest.mark.parametrize("claimed", [193, 4096, 10**12])
@pytest.mark.parametrize("in_place", [True, False])
def test_a_context_beyond_the_graphs_fails_where_it_ends(claimed, in_place, broken_bundle, capfd):
    edit_json(broken_bundle / "config.json", max_position_embeddings=claimed)
    session = opened(broken_bundle, in_place=in_place)
    cache = session.new_cache()
    session.forward([7] * 192, cache)
    with pytest.raises(BundleError, match=r"model\.onnx fails in onnxruntime") as caught:
        session.forward([7], cache)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_context_beyond_the_tables_of_an_unfused_rotary_fails_where_it_ends(stories260k_bundle, tmp_path):
    shutil.copytree(stories260k_bundle, tmp_path / "bundle")
    edit_json(tmp_path / "bundle" / "manifest.json", files={})
    edit_json(tmp_path / "bundle" / "config.json", max_position_embeddings=600)
    session = opened(tmp_path / "bundle")
    cache = session.new_cache()
    session.forward([7] * 512, cache)
    with pytest.raises(BundleError, match=r"model\.onnx fails in onnxruntime"):
        session.forward([7], cache)


def foreign_graph(path, inputs, outputs):
    """A graph of Identity nodes with these inputs and outputs."""
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [helper.make_node("Identity", ["past_key_values.0.key"], [name]) for name in outputs]
    shape = ["batch_size", 1, "past_sequence_length", 16]
    body = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info(name, kinds.FLOAT, shape) for name in inputs],
        [helper.make_tensor_value_info(name, kinds.FLOAT, None) for name in outputs],
    )
    path.write_bytes(
        helper.make_model(body, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    )


@pytest.mark.parametrize("what", ["inputs", "position_ids", "outputs", "more"])
def test_a_foreign_graph_is_refused_with_what_it_lacks(what, graph, broken_bundle):
    edit_json(broken_bundle / "config.json", num_hidden_layers=1)
    others = [contract.INPUT_IDS, contract.ATTENTION_MASK, contract.POSITION_IDS, contract.NUM_LOGITS_TO_KEEP]
    inputs = [*others, *contract.past_names(0)]
    outputs = [contract.LOGITS, *contract.present_names(0)]
    words = {
        "inputs": "missing inputs attention_mask, input_ids, num_logits_to_keep, past_key_values",
        "position_ids": "missing inputs position_ids$",
        "outputs": r"missing outputs present\.0\.key, present\.0\.value",
        "more": "unknown inputs pixel_values",
    }[what]
    if what == "inputs":
        inputs = ["past_key_values.0.key"]
    elif what == "position_ids":
        inputs.remove(contract.POSITION_IDS)
    elif what == "outputs":
        outputs = [contract.LOGITS]
    else:
        inputs.append("pixel_values")
    foreign_graph(graph, inputs, outputs)
    with pytest.raises(BundleError, match=rf"breaks the graph contract: {words}"):
        opened(broken_bundle)
