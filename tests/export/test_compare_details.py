"""Drift, cache paths, memory, thresholds and the report of a comparison, on real trained weights."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from export.__main__ import main
from export.bundle import export_bundle
from export.comparison.compare import compare
from export.comparison.drift import Drift
from export.comparison.report_html import html_report
from export.comparison.thresholds import OPTIONS, parse_limits, shortfalls, unfit
from export.comparison.torch_reference import TorchReference
from export.errors import ExportError
from export.precisions import parse_precisions
from export.probe import residual_names
from model import Checkpoint, load_checkpoint
from runtime import Bundle
from runtime.evaluation.interval import mean_interval
from runtime.precisions import PRECISIONS, Limits

REPOSITORY = Path(__file__).resolve().parents[2]
STORY = "Once upon a time there was a cat. The cat sat on a mat, and looked at the moon. " * 12


@pytest.fixture(scope="module")
def reference(shared_data):
    return TorchReference(load_checkpoint(shared_data / "stories260k"))


@pytest.fixture(scope="module")
def comparison(stories260k_bundle, reference):
    return compare(Bundle.open(stories260k_bundle), reference, details=True, progress=False)


def test_the_residual_stream_of_the_fp32_graph_is_that_of_pytorch(comparison):
    drift = comparison.precisions["fp32"].details.drift
    assert len(drift.attention) == len(drift.mlp) == 5
    assert all(error < 1e-5 for _, error in drift.steps)


def test_the_stream_is_found_in_a_graph_of_standard_operators_too(shared_data, reference, tmp_path):
    checkpoint = Checkpoint(shared_data / "stories260k")
    export_bundle(checkpoint, tmp_path / "b", parse_precisions("fp32"), source="test", portable=True, progress=False)
    found = compare(Bundle.open(tmp_path / "b"), reference, details=True, progress=False)
    assert all(error < 1e-5 for _, error in found.precisions["fp32"].details.drift.steps)
    assert all(difference < 1e-5 for difference in found.precisions["fp32"].details.cache_paths.values())


def test_quantized_layers_drift_and_the_damaged_one_is_named(stories260k_bundle, reference, comparison, tmp_path):
    assert all(1e-4 < error < 0.1 for _, error in comparison.precisions["int8"].details.drift.steps)
    model = ir.load(Bundle.open(stories260k_bundle).model_file("fp32"))
    damaged = model.graph.initializers["model.layers.3.mlp.down_proj.weight"]
    damaged.const_value = ir.tensor(damaged.const_value.numpy() * 1.5, name=damaged.name)
    folder = tmp_path / "bundle"
    (folder / "onnx").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((stories260k_bundle / name).read_bytes())
    ir.save(model, folder / "onnx" / "model.onnx")
    found = compare(Bundle.open(folder), reference, details=True, progress=False)
    assert found.precisions["fp32"].details.drift.worst == "layer 3 MLP"
    assert shortfalls(found, parse_limits({}, ["fp32"]))


def test_drift_is_a_mean_over_tokens_of_relative_errors_worked_out_by_hand():
    expected = [np.array([[3.0, 4.0], [1000.0, 0.0]], np.float32)] * 3
    found = [expected[0], expected[0] + np.array([[0.0, 1.0], [0.0, 0.0]], np.float32), expected[0] * 2]
    drift = Drift.between(expected, found)
    assert drift == Drift(0.0, [pytest.approx(0.1)], [pytest.approx(1.0)])
    assert drift.worst == "layer 0 MLP"


def test_a_graph_of_another_exporter_has_no_known_residual_stream(tmp_path):
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    node = ir.node("Neg", [x], name="neg")
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 21}, name="foreign")
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "foreign.onnx")
    assert residual_names(tmp_path / "foreign.onnx") is None


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("int8", 0.03), ("q8", 0.1)])
def test_every_way_into_the_cache_gives_the_same_logits(comparison, precision, tolerance):
    paths = comparison.precisions[precision].details.cache_paths
    assert paths.keys() == {"prefill_decode", "chunks", "batch"}
    assert all(difference <= tolerance for difference in paths.values())


def test_memory_is_that_of_the_runtime_alone(comparison):
    for figures in comparison.precisions.values():
        footprint = figures.details.footprint
        assert 20e6 < footprint.peak_memory_bytes < 200e6  # this process, with torch in it, is far larger
        assert 0 < footprint.load_seconds < 10


def test_figures_bracket_and_order_as_they_must(comparison):
    for figures in comparison.precisions.values():
        low, high = figures.perplexity_interval
        assert low < figures.perplexity < high
        low, high = figures.perplexity_change_interval
        assert low <= figures.perplexity_change <= high
        quantiles = list(figures.logit_difference_quantiles.values())
        assert quantiles == sorted(quantiles)
        assert quantiles[-1] <= figures.max_abs_logit_difference
        assert (figures.first_divergence is None) == (figures.first_divergence_margin is None)
        if figures.first_divergence is not None:
            assert figures.first_divergence_margin >= 0  # the reference prefers its own token, by definition
    assert comparison.precisions["fp32"].reverse_kl < 1e-9
    # The same tokens, so their difficulty cancels.
    interval = comparison.precisions["int8"].perplexity_change_interval
    own = comparison.reference.perplexity_interval
    assert interval[1] - interval[0] < 0.1 * (own[1] - own[0]) / comparison.reference.perplexity


def test_an_interval_holds_the_mean_as_often_as_it_says_for_correlated_values():
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        noise = generator.normal(size=4000 + 7)
        values = np.convolve(noise, np.ones(8), "valid")  # neighbours share seven of eight terms
        low, high = mean_interval(values)
        held += low <= 0 <= high
    assert 0.91 <= held / 400 <= 0.98
    assert mean_interval(np.ones(59)) is None


def test_an_interval_of_thirty_blocks_is_worked_out_by_hand():
    blocks = np.tile([0.0, 1.0], 15)
    low, high = mean_interval(np.repeat(blocks, 10))
    half = 2.0452 * np.sqrt(0.25 * 30 / 29) / np.sqrt(30)  # Student's quantile for 29 degrees of freedom
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-4)


def test_limits_come_from_defaults_one_number_or_a_number_for_each():
    default = PRECISIONS["int8"].limits
    assert parse_limits({}, ["int8"])["int8"] == default
    limits = parse_limits(
        {"max_kl": "0.5,int8=0.1", "min_top1": "q4=0.8", "max_perplexity_change": None}, ["int8", "q4"]
    )
    assert limits["int8"] == Limits(0.1, default.min_top1, default.max_perplexity_change)
    assert (limits["q4"].max_kl, limits["q4"].min_top1) == (0.5, 0.8)
    for wrong in ("abc", "int8=", "-1", "nan", "int9=0.1"):
        with pytest.raises(ExportError, match="--max-kl"):
            parse_limits({"max_kl": wrong}, ["int8", "q4"])


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [("max_kl", "int8=1e-9", "KL"), ("min_top1", "q8=1", "top-1"), ("max_perplexity_change", "int8=0", "perplexity")],
)
def test_what_falls_short_is_named(comparison, option, value, named):
    assert shortfalls(comparison, parse_limits({}, comparison.precisions)) == []
    (line,) = shortfalls(comparison, parse_limits({option: value}, comparison.precisions))
    assert line.startswith(value.split("=")[0])
    assert named in line
    assert OPTIONS[option] in line


def test_default_limits_are_wider_for_a_small_model(monkeypatch):
    row = dataclasses.replace(PRECISIONS["int8"], small_model_limits=Limits(1.0, 0.5, 1.0))
    monkeypatch.setitem(PRECISIONS, "int8", row)
    for parameters, expected in ((135_000_000, row.limits), (260_000, row.small_model_limits)):
        assert parse_limits({}, ["int8"], parameters=parameters)["int8"] == expected
    assert parse_limits({}, ["int8"])["int8"] == row.small_model_limits


def test_a_precision_that_is_not_fit_for_use_is_named_with_one_that_is(comparison):
    assert unfit(comparison) == {}
    poor = dataclasses.replace(comparison.precisions["q8"], top1_agreement=0.834)
    found = unfit(dataclasses.replace(comparison, precisions=comparison.precisions | {"q8": poor}))
    assert list(found) == ["q8"]
    assert found["q8"].startswith("q8 is not fit for use on this model: its likeliest token is PyTorch's at 83.4%")
    assert "; int8 agrees at " in found["q8"]
    alone = dataclasses.replace(comparison, precisions={"q8": poor})
    assert unfit(alone)["q8"].endswith("below 90%")


class Page(HTMLParser):
    """What a page holds, and whatever it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]


def test_the_report_is_one_page_with_its_plots_and_loads_nothing(comparison, stories260k_bundle):
    text = html_report(comparison, Bundle.open(stories260k_bundle), ["int8: <too> far"], ["q8 is <unfit>"])
    page = Page()
    page.feed(text)
    assert page.loaded == []
    assert "script" not in page.tags
    assert "url(" not in text
    assert page.tags.count("svg") == 10
    assert "int8: &lt;too&gt; far" in text
    assert "q8 is &lt;unfit&gt;" in text
    assert not re.search(r"\bnan\b", text)
    assert len(text) < 120_000


def test_without_torch_the_precisions_are_compared_with_each_other(stories260k_bundle, tmp_path):
    (tmp_path / "story.txt").write_text(STORY)
    script = "import sys; sys.modules['torch'] = None; from export.__main__ import main; sys.exit(main(sys.argv[1:]))"

    def run(*options):
        command = [sys.executable, "-W", "error", "-c", script, "compare", str(stories260k_bundle), *options]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    done = run("--text", str(tmp_path / "story.txt"), "--json", "--report", str(tmp_path / "report"))
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["reference"]["name"] == "ONNX fp32"
    assert figures["precisions"]["fp32"]["kl"] == 0
    assert 0 < figures["precisions"]["int8"]["kl"] < 0.01
    assert figures["precisions"]["q8"]["drift"]["mlp"][4] > 0
    assert figures["precisions"]["q8"]["peak_memory_bytes"] > 0
    assert (tmp_path / "report" / "compare.html").is_file()
    asked = run("--checkpoint", "anything")
    assert (asked.returncode, asked.stdout) == (1, "")
    assert "pip install" in asked.stderr


def test_inspecting_needs_the_runtime_alone(stories260k_bundle):
    blocked = "import sys; sys.modules |= dict.fromkeys(('torch', 'onnx', 'onnx_ir', 'safetensors'))"
    script = f"{blocked}; from export.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-W", "error", "-c", script, "inspect", str(stories260k_bundle)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_falling_short_prints_the_figures_and_exits_with_1(stories260k_bundle, tmp_path, capsys):
    (tmp_path / "story.txt").write_text(STORY)
    arguments = ["compare", str(stories260k_bundle), "--text", str(tmp_path / "story.txt"), "--max-kl", "int8=1e-9"]
    assert main([*arguments, "--json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["shortfalls"][0].startswith("int8: KL")
    assert printed.err.startswith("error: too far from ONNX fp32: int8: KL")
    assert main(["compare", str(stories260k_bundle), "--max-kl", "none"]) == 1
    assert "--max-kl takes a number" in capsys.readouterr().err


def test_torch_is_left_as_it_was(reference):
    before = len(reference._model.model.norm._forward_pre_hooks)
    reference.residuals([1, 2, 3])
    assert len(reference._model.model.norm._forward_pre_hooks) == before == 0
    assert torch.is_grad_enabled()
