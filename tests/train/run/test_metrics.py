"""Operations, peaks and memory; the metrics for TensorBoard; the picture."""

import json
import sys
import types

import matplotlib.image
import numpy as np
import pytest
import torch

from model import ModelConfig
from train.config import MachineSection
from train.errors import RecipeError, RunError
from train.loop import train
from train.resume import resume_run
from train.run.metrics import MetricsWriter, read_metrics
from train.run.plot import figure_of, plot_runs
from train.throughput import flops_per_token, peak_flops


def test_operations_are_those_that_torch_counts(tiny_recipe, monkeypatch):
    """torch counts the products of the modules that ran; its attention is the part that we add by formula."""
    from torch.utils.flop_counter import FlopCounterMode

    from model import TransformerModel, linear

    monkeypatch.setattr(linear, "prefers_onednn", lambda: False)  # torch counts its own products alone
    config = ModelConfig.from_preset("tiny").replace(vocab_size=512, num_key_value_heads=2)
    model = TransformerModel(config)
    input_ids = torch.zeros(2, 64, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model(input_ids)
    attention = config.num_hidden_layers * 4 * config.num_attention_heads * config.head_dim * 64
    counted = counter.get_total_flops()
    by_kind = {str(kind): flops for kind, flops in counter.get_flop_counts()["Global"].items()}
    products = sum(flops for kind, flops in by_kind.items() if "attention" not in kind)
    assert counted >= products
    assert flops_per_token(config, 64) == pytest.approx(3 * (products / input_ids.numel() + attention))


def test_a_model_of_135m_takes_a_giga_operation_a_token():
    config = ModelConfig.from_preset("smollm2-135m")
    assert flops_per_token(config, 2048) == pytest.approx(6 * 134.5e6 + 12 * 30 * 576 * 2048, rel=1e-3)


PEAKS = (
    ("Tesla T4", 65e12),
    ("Tesla V100-SXM2-16GB", 125e12),
    ("NVIDIA A10", 125e12),
    ("NVIDIA A10G", 70e12),
    ("NVIDIA L4", 121e12),
    ("NVIDIA GeForce RTX 3090", 71e12),
    ("NVIDIA GeForce RTX 4090", 165e12),
    ("NVIDIA A100-SXM4-80GB", 312e12),
    ("NVIDIA H100 80GB HBM3", 989e12),
    ("NVIDIA H100 PCIe", 756e12),
    ("NVIDIA H200", 989e12),
    ("Quantum 9", None),
)


def test_the_peak_is_the_recipes_or_the_tables(monkeypatch):
    assert peak_flops(MachineSection(), torch.device("cpu")) is None
    assert peak_flops(MachineSection(peak_tflops=0.5), torch.device("cpu")) == 5e11
    for name, expected in PEAKS:
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert peak_flops(MachineSection(), torch.device("cuda", 0)) == expected


def test_the_share_of_the_peak_is_told_where_the_peak_is_known(tiny_run):
    run = tiny_run(machine={"peak_tflops": 0.001})
    train(run, stop_at=2)
    line = read_metrics(run.folder.metrics)[-1]
    context = run.recipe.data.context
    expected = line["tokens_per_second"] * flops_per_token(run.model.config, context) / 1e9
    assert line["mfu"] == pytest.approx(expected)
    assert 1e7 < line["memory_bytes"] < 1e11


def test_tensorboard_gets_what_the_file_gets(tiny_run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tiny_run(run={"tensorboard": True})
    train(run)
    events = EventAccumulator(str(run.folder.tensorboard)).Reload()
    lines = read_metrics(run.folder.metrics)
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (line["step"], pytest.approx(line["loss"])) for line in lines
    ]
    assert [event.step for event in events.Scalars("held_out_loss")] == [10, 20]


def test_tensorboard_that_is_not_installed_is_an_error_before_the_run(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(RecipeError, match=r"run\.tensorboard needs a package: pip install tensorboard"):
        tiny_run(run={"tensorboard": True})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_a_tracker_gets_what_the_file_gets(tiny_run, monkeypatch, package):
    """The packages' functions have the same names; a resumed run continues under its name."""
    started, logged, finished = [], [], []
    fake = types.SimpleNamespace(
        init=lambda **options: started.append(options),
        log=lambda numbers, step: logged.append((step, numbers)),
        finish=lambda: finished.append(True),
    )
    monkeypatch.setitem(sys.modules, package, fake)
    run = tiny_run(run={"tracker": package, "project": "stories"})
    train(run, stop_at=10)
    train(resume_run(run.folder))
    assert [options["project"] for options in started] == ["stories"] * 2
    assert {options["name"] for options in started} == {"run"}
    assert started[0]["config"] == run.recipe.to_dict()
    lines = read_metrics(run.folder.metrics)
    assert [step for step, _ in logged] == [line["step"] for line in lines]
    assert [numbers["loss"] for _, numbers in logged] == [line["loss"] for line in lines]
    assert "held_out_loss" in logged[-1][1]
    assert len(finished) == 2


def test_a_tracker_that_is_not_installed_is_an_error_before_the_run(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(RecipeError, match=r"run\.tracker needs a package: pip install trackio"):
        tiny_run(run={"tracker": "trackio"})
    assert not (tmp_path / "run").exists()


def test_metrics_after_the_step_resumed_at_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "lo')
    with MetricsWriter(path, resumed_at=2) as writer:
        writer.write({"step": 3, "loss": 1.0})
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]


def metrics_of(folder, *lines):
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_skipped_step_is_a_gap_in_the_picture(tmp_path):
    sound = [{"step": step, "loss": 3 / step, "lr": 1e-3} for step in range(1, 50)]
    skipped = {"step": 50, "loss": None, "skipped": True, "lr": 1e-3}
    run = metrics_of(tmp_path / "run", *sound, skipped, {"step": 51, "loss": 0.1, "held_out_loss": 0.2, "lr": 0.0})
    plot_runs([run, metrics_of(tmp_path / "other", *sound)], tmp_path / "loss.png")
    pixels = matplotlib.image.imread(tmp_path / "loss.png")
    assert pixels.shape[1] > 1000
    assert len(np.unique(pixels[..., :3].reshape(-1, 3), axis=0)) > 50


def test_a_run_without_a_sound_step_cannot_be_drawn(tmp_path):
    run = metrics_of(tmp_path / "run", {"step": 1, "loss": None, "skipped": True})
    with pytest.raises(RunError, match="run has no metrics yet"):
        plot_runs([run], tmp_path / "loss.png")


def a_run(folder, tokenizer, bits_per_nat, steps=(1, 2, 3)):
    """A folder with metrics and something that stands for a tokenizer."""
    lines = [{"step": step, "loss": 4.0 / step, "lr": 1e-3 * step} for step in steps]
    lines[-1] |= {"held_out_loss": 2.0, "bits_per_byte": 2.0 * bits_per_nat, "true_loss": 1.0}
    metrics_of(folder, *lines)
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text(tokenizer)
    return folder


def curves(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}


def test_runs_of_one_tokenizer_are_drawn_in_nats_per_token_with_their_rates(tmp_path):
    losses, rates = figure_of([a_run(tmp_path / "one", "a", 0.5), a_run(tmp_path / "two", "a", 0.4)]).axes
    assert losses.get_ylabel() == "loss, nats per token"
    assert curves(losses)["one: training"] == pytest.approx([4, 2, 4 / 3])
    assert curves(losses)["two: held out (at last 2.000)"] == [2.0]
    assert [list(line.get_ydata()) for line in rates.get_lines()] == [pytest.approx([1e-3, 2e-3, 3e-3])] * 2
    assert all(tick == int(tick) for tick in rates.get_xticks())


def test_runs_of_different_tokenizers_are_drawn_in_bits_per_byte(tmp_path):
    """A token of one is not a token of the other, so nats per token would put the smaller vocabulary ahead."""
    losses, _ = figure_of([a_run(tmp_path / "one", "a", 0.5), a_run(tmp_path / "two", "b", 0.25)]).axes
    assert losses.get_ylabel() == "loss, bits per byte"
    drawn = curves(losses)
    assert drawn["one: training"] == pytest.approx([2, 1, 2 / 3])
    assert drawn["two: training"] == pytest.approx([1, 0.5, 1 / 3])
    assert drawn["two: held out (at last 0.500)"] == [0.5]
    assert {label for label in drawn if "entropy" in label} == {"true entropy (0.500)", "true entropy (0.250)"}


def test_a_run_on_pairs_is_drawn_in_nats_per_pair_and_alone(tmp_path):
    runs = [a_run(tmp_path / "one", "a", 0.5), a_run(tmp_path / "two", "b", 0.25)]
    line = {"step": 1, "loss": 0.7, "lr": 0.1, "held_out_loss": 0.6, "margin": 0.2, "preference_accuracy": 0.9}
    (runs[1] / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert figure_of(runs[1:]).axes[0].get_ylabel() == "loss, nats per pair"
    with pytest.raises(RunError, match="two has another tokenizer than the rest and no evaluation"):
        figure_of(runs)


def test_a_run_of_another_tokenizer_without_an_evaluation_cannot_share_a_picture(tmp_path):
    runs = [a_run(tmp_path / "one", "a", 0.5), a_run(tmp_path / "two", "b", 0.25)]
    (runs[1] / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0, "lr": 0.1}\n')
    with pytest.raises(RunError, match="two has another tokenizer than the rest and no evaluation"):
        figure_of(runs)
    assert figure_of(runs[1:]).axes[0].get_ylabel() == "loss, nats per token"
