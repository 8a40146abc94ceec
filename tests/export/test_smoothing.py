"""Smoothed features: the same function in every architecture, and a product that loses less to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.cache_layout import CacheLayout, LaidOutCheckpoint
from export.calibration import Calibration
from export.smoothing import TABLE_SCALE, SmoothedCheckpoint, even_factor
from export.weight_formats import Float
from model import Checkpoint
from tests.export.graphs import CHANGES, Graph, make_checkpoint, relative_difference
from tests.family import CONFIGS
from tests.family import make_checkpoint as make_theirs

IDS = np.random.default_rng(0).integers(3, 96, (1, 14))


def smoothed(checkpoint) -> Calibration:
    """As the exporter sees weights before it rounds them."""
    calibration = Calibration(checkpoint, tokens=256, progress=False)
    laid_out = LaidOutCheckpoint(checkpoint, CacheLayout.of(calibration.cache_statistics, checkpoint.config))
    return calibration.through(laid_out, SmoothedCheckpoint(laid_out, calibration.mean_squares))


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_the_smoothed_graph_computes_what_pytorch_computes(changes, tmp_path):
    checkpoint, model = make_checkpoint(tmp_path, changes)
    logits, _ = Graph(smoothed(checkpoint).weights, Float(), tmp_path / "model.onnx")(IDS)
    with torch.inference_mode():
        expected = model(torch.tensor(IDS)).numpy()
    assert relative_difference(logits, expected) <= 1e-5


@pytest.mark.parametrize(
    "name", ["qwen2", "qwen2, tied, yarn", "qwen3, biases", "smollm3, its layers", "mistral, a window"]
)
def test_so_it_does_for_other_architectures(name, tmp_path):
    theirs = make_theirs(tmp_path, CONFIGS[name])
    logits, _ = Graph(smoothed(Checkpoint(tmp_path)).weights, Float(), tmp_path / "model.onnx")(IDS)
    with torch.no_grad():
        expected = theirs(torch.tensor(IDS)).logits.numpy()
    assert relative_difference(logits, expected) <= 1e-4


@pytest.mark.parametrize("changes", [CHANGES[0], CHANGES[3], CHANGES[4]], ids=str)
def test_the_moments_of_a_view_are_those_of_the_view(changes, tmp_path):
    """They are scaled, not measured: run through the view itself, the same text has the same moments."""
    view = smoothed(make_checkpoint(tmp_path, changes)[0])
    measured = Calibration(view.weights, tokens=256, progress=False)
    measured._samples = view._sampled()
    if view.config.tie_word_embeddings:  # a bare pass knows no scale of the table
        measured._embedded = lambda: [
            (view.weights.tensor("model.embed_tokens.weight") * view.weights.tensor(TABLE_SCALE))[row][None]
            for row in view.rows
        ]
    for name in (
        "model.layers.0.self_attn.qkv_proj",
        "model.layers.1.self_attn.o_proj",
        "model.layers.1.mlp.down_proj",
    ):
        found, expected = view.second_moment(name), measured.second_moment(name)
        assert np.allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()), name
    found, expected = view.second_moment("lm_head"), measured.second_moment("lm_head")
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_an_outlier_feature_costs_a_rounded_product_less():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(500, 64, generator=draw)
    x[:, 5] *= 50
    weight = torch.randn(40, 64, generator=draw)

    def error(factor: torch.Tensor) -> float:
        rounded = [
            (part / step).round() * step
            for part in (x * factor, weight / factor)
            for step in [part.abs().amax(-1, keepdim=True) / 127]
        ]
        return float((rounded[0] @ rounded[1].T - x @ weight.T).square().mean())

    factor = even_factor(x.square().mean(0), weight.square().sum(0))
    assert error(factor) < 0.2 * error(torch.ones(64))


def test_factors_are_the_fourth_root_and_a_feature_that_is_always_zero_keeps_its_size():
    found = even_factor(torch.tensor([1.0, 16.0, 0.0, 1.0]), torch.tensor([16.0, 1.0, 5.0, 0.0]))
    assert found.tolist() == pytest.approx([2.0, 0.5, 1.0, 1.0])


def test_a_tied_table_is_stored_once(tmp_path):
    weights = smoothed(make_checkpoint(tmp_path, {})[0]).weights
    assert torch.equal(weights.tensor("lm_head.weight"), weights.tensor("model.embed_tokens.weight"))
    untied = smoothed(make_checkpoint(tmp_path / "untied", {"tie_word_embeddings": False})[0]).weights
    assert TABLE_SCALE not in untied.shapes
