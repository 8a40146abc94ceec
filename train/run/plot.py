"""A picture of loss curves: training and held-out loss of one run or several, and the lowest possible loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from model.files import replacing_file
from train.errors import RunError
from train.run.metrics import Metrics, read_metrics

COLORS = ("#2a6fbb", "#d1495b", "#3a8f5c", "#8e5ea2", "#c77d1e", "#4d4d4d")
TRUE_LOSS_COLOR = "#777777"
SMOOTHING_WINDOWS = 100  # the training curve is drawn as this many means


def plot_runs(runs: Sequence[Path], picture: Path) -> None:
    """Draw the metrics of run folders into a PNG. Raises RunError where a run has none."""
    histories = {run.name: _sound(read_metrics(run / "metrics.jsonl")) for run in runs}
    for name, history in histories.items():
        if not history:
            raise RunError(f"{name} has no metrics yet: it was stopped before its first step")
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for color, (name, history) in zip(_cycled(COLORS, len(histories)), histories.items(), strict=True):
        _draw_run(axes, history, color, f"{name}: " if len(histories) > 1 else "")
    _draw_true_losses(axes, histories.values())
    _dress(axes)
    with replacing_file(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _sound(history: list[Metrics]) -> list[Metrics]:
    """The steps that were not skipped."""
    return [line for line in history if line["loss"] is not None]


def _draw_run(axes: Axes, history: list[Metrics], color: str, prefix: str) -> None:
    """Draw the training loss as a light line, its means as a darker one, and evaluations as dots."""
    steps, losses = [line["step"] for line in history], [line["loss"] for line in history]
    axes.plot(steps, losses, color=color, alpha=0.18, linewidth=0.8)
    axes.plot(*_smoothed(steps, losses), color=color, linewidth=1.6, label=f"{prefix}training")
    evaluations = [line for line in history if "held_out_loss" in line]
    if not evaluations:
        return
    held_out = [line["held_out_loss"] for line in evaluations]
    style = {"color": color, "marker": "o", "markersize": 5, "markerfacecolor": "white", "linestyle": "--"}
    label = f"{prefix}held out (at last {held_out[-1]:.3f})"
    axes.plot([line["step"] for line in evaluations], held_out, linewidth=1.0, label=label, **style)


def _smoothed(steps: list[float], losses: list[float]) -> tuple[list[float], list[float]]:
    """Means over windows of equal length, each placed at the middle of its window."""
    size = max(1, len(losses) // SMOOTHING_WINDOWS)
    stretches = [slice(start, start + size) for start in range(0, len(losses) - size + 1, size)]
    return [sum(steps[s]) / size for s in stretches], [sum(losses[s]) / size for s in stretches]


def _draw_true_losses(axes: Axes, histories: Sequence[list[Metrics]]) -> None:
    """Draw a line at the true entropy of each corpus for which it is known."""
    for true_loss in sorted({line["true_loss"] for history in histories for line in history if "true_loss" in line}):
        label = f"true entropy ({true_loss:.3f})"
        axes.axhline(true_loss, color=TRUE_LOSS_COLOR, linewidth=1.2, linestyle=(0, (1, 1.5)), label=label)


def _dress(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "235" else "")
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats per token")
    axes.grid(which="both", alpha=0.2, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _cycled(items: Sequence[str], count: int) -> list[str]:
    return [items[index % len(items)] for index in range(count)]
