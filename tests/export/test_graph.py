"""The fp32 graph computes what PyTorch computes, whichever way the tokens reach it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.operators import has_fused_rotary
from export.weight_formats import Float
from runtime import contract
from tests.export.graphs import BASE, CHANGES, Graph, make_checkpoint, relative_difference

TOLERANCE = 1e-4
BATCH, LENGTH = 2, 24


@pytest.fixture(scope="module", params=CHANGES, ids=str)
def case(request, tmp_path_factory):
    """A graph, ids [batch, length] and PyTorch's logits for them."""
    folder = tmp_path_factory.mktemp("graph")
    checkpoint, model = make_checkpoint(folder / "checkpoint", request.param)
    ids = np.random.default_rng(0).integers(0, BASE["vocab_size"], (BATCH, LENGTH))
    with torch.inference_mode():
        expected = model(torch.tensor(ids)).numpy()
    return Graph(checkpoint, Float(), folder / "model.onnx"), ids, expected


def test_prefill(case):
    graph, ids, expected = case
    assert relative_difference(graph(ids)[0], expected) <= TOLERANCE


@pytest.mark.parametrize("first", [1, 2, 7, LENGTH - 1])
def test_decode_after_a_prefill(case, first):
    graph, ids, expected = case
    logits, cache = graph(ids[:, :first])
    parts = [logits]
    for position in range(first, LENGTH):
        logits, cache = graph(ids[:, position : position + 1], cache)
        parts.append(logits)
    assert relative_difference(np.concatenate(parts, axis=1), expected) <= TOLERANCE


def test_prefill_in_chunks(case):
    graph, ids, expected = case
    parts, cache = [], None
    for chunk in np.split(ids[:1], [5, 6, 17], axis=1):
        logits, cache = graph(chunk, cache)
        parts.append(logits)
    assert relative_difference(np.concatenate(parts, axis=1), expected[:1]) <= TOLERANCE


def test_a_right_padded_batch_and_the_ragged_decode_after_it(case):
    graph, ids, expected = case
    lengths = np.array([9, 20])
    padded = np.where(np.arange(20) < lengths[:, None], ids[:, :20], 0)
    mask = (np.arange(20) < lengths[:, None]).astype(np.int64)
    logits, cache = graph(padded, mask=mask)
    for row, length in enumerate(lengths):
        assert relative_difference(logits[row, :length], expected[row, :length]) <= TOLERANCE
    for step in range(3):
        at = lengths + step
        mask = (np.arange(at.max() + 1) <= at[:, None]).astype(np.int64)
        logits, cache = graph(ids[np.arange(BATCH), at][:, None], cache, mask=mask, positions=at[:, None])
        for row in range(BATCH):
            assert relative_difference(logits[row, 0], expected[row, at[row]]) <= TOLERANCE


@pytest.mark.parametrize(("keep", "kept"), [(0, LENGTH), (1, 1), (5, 5), (LENGTH + 3, LENGTH)])
def test_the_head_runs_for_the_positions_that_are_asked_for(case, keep, kept):
    graph, ids, expected = case
    logits, _ = graph(ids, keep=keep)
    assert logits.shape == (BATCH, kept, BASE["vocab_size"])
    assert relative_difference(logits, expected[:, -kept:]) <= TOLERANCE


def test_inputs_and_outputs_are_the_contracts(case):
    graph, _, _ = case
    config = graph.config
    with_default = graph.session.get_overridable_initializers()
    assert [node.name for node in with_default] == [contract.NUM_LOGITS_TO_KEEP]
    inputs = {node.name: (node.type, node.shape) for node in [*graph.session.get_inputs(), *with_default]}
    cache = [contract.BATCH, config.num_key_value_heads, contract.PAST, config.head_dim]
    assert inputs == {
        contract.INPUT_IDS: ("tensor(int64)", [contract.BATCH, contract.SEQUENCE]),
        contract.ATTENTION_MASK: ("tensor(int64)", [contract.BATCH, contract.TOTAL]),
        contract.POSITION_IDS: ("tensor(int64)", [contract.BATCH, contract.SEQUENCE]),
        contract.NUM_LOGITS_TO_KEEP: ("tensor(int64)", []),
    } | {name: ("tensor(float)", cache) for layer in range(2) for name in contract.past_names(layer)}
    outputs = [node.name for node in graph.session.get_outputs()]
    assert outputs == [contract.LOGITS, *(name for layer in range(2) for name in contract.present_names(layer))]


def test_heads_that_the_fused_rotary_refuses_get_nodes_of_their_own(case):
    graph, _, _ = case
    assert has_fused_rotary(graph.config) == (graph.config.head_dim % 16 == 0)
