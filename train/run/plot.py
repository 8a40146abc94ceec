"""A picture of runs: their training and held-out losses, the lowest possible loss, and their learning rates."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from model.files import replacing_file
from train.errors import RunError
from train.run.metrics import Metrics, read_metrics

COLORS = ("#2a6fbb", "#d1495b", "#3a8f5c", "#8e5ea2", "#c77d1e", "#4d4d4d")
TRUE_LOSS_COLOR = "#777777"
SMOOTHING_WINDOWS = 100  # the training curve is drawn as this many means


def plot_runs(runs: Sequence[Path], picture: Path) -> None:
    """Draw the metrics of run folders into a PNG. Raises RunError, as `figure_of` does."""
    figure = figure_of(runs)
    FigureCanvasAgg(figure)
    with replacing_file(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def figure_of(runs: Sequence[Path]) -> Figure:
    """A figure of the metrics of run folders: losses above, learning rates below.

    Losses are in nats per token, or in bits per byte where the runs have different tokenizers, whose tokens cannot be
    compared.

    Raises:
        RunError: a run has no metrics, or no evaluation from which its loss in bits per byte follows.
    """
    histories = _named([_sound(read_metrics(run / "metrics.jsonl")) for run in runs], runs)
    for name, history in histories.items():
        if not history:
            raise RunError(f"{name} has no metrics yet: it was stopped before its first step")
    in_bits = len({_tokenizer_of(run) for run in runs}) > 1
    units = {name: _bits_per_nat(name, history) if in_bits else 1.0 for name, history in histories.items()}
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    axes, rates = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    for color, (name, history) in zip(_cycled(COLORS, len(histories)), histories.items(), strict=True):
        _draw_run(axes, history, color, f"{name}: " if len(histories) > 1 else "", units[name])
        rates.plot(
            [line["step"] for line in history], [line["lr"] for line in history], color=color, linewidth=1.2, alpha=0.8
        )
    _draw_true_losses(axes, histories, units)
    of_pairs = any("margin" in line for history in histories.values() for line in history)  # of preferences
    _dress(axes, "loss, bits per byte" if in_bits else f"loss, nats per {'pair' if of_pairs else 'token'}")
    _dress_rates(rates)
    return figure


def _named(histories: Sequence[list[Metrics]], runs: Sequence[Path]) -> dict[str, list[Metrics]]:
    """The histories by the names of their runs; by their whole paths where two have the same name."""
    names = [run.resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    return dict(zip(names, histories, strict=True))


def _tokenizer_of(run: Path) -> bytes | None:
    """What tells a run's tokenizer from another."""
    path = run / "tokenizer" / "tokenizer.json"
    return hashlib.sha256(path.read_bytes()).digest() if path.is_file() else None


def _bits_per_nat(name: str, history: list[Metrics]) -> float:
    """A loss in bits per byte over the same loss in nats per token, as the run's last evaluation has both."""
    evaluation = next((line for line in reversed(history) if line.get("bits_per_byte")), None)
    if evaluation is None:
        raise RunError(
            f"{name} has another tokenizer than the rest and no evaluation, so its loss cannot be told in bits per "
            "byte; draw it alone, or set run.evaluate_every"
        )
    ratio: float = evaluation["bits_per_byte"] / evaluation["held_out_loss"]
    return ratio


def _sound(history: list[Metrics]) -> list[Metrics]:
    """The steps that were not skipped."""
    return [line for line in history if line["loss"] is not None]


def _draw_run(axes: Axes, history: list[Metrics], color: str, prefix: str, unit: float) -> None:
    """Draw the training loss as a light line, its means as a darker one, and evaluations as dots."""
    steps, losses = [line["step"] for line in history], [line["loss"] * unit for line in history]
    axes.plot(steps, losses, color=color, alpha=0.18, linewidth=0.8)
    axes.plot(*_smoothed(steps, losses), color=color, linewidth=1.6, label=f"{prefix}training")
    evaluations = [line for line in history if "held_out_loss" in line]
    if not evaluations:
        return
    held_out = [line["held_out_loss"] * unit for line in evaluations]
    style = {"color": color, "marker": "o", "markersize": 5, "markerfacecolor": "white", "linestyle": "--"}
    label = f"{prefix}held out (at last {held_out[-1]:.3f})"
    axes.plot([line["step"] for line in evaluations], held_out, linewidth=1.0, label=label, **style)


def _smoothed(steps: list[float], losses: list[float]) -> tuple[list[float], list[float]]:
    """Means over windows of equal length, each placed at the middle of its window."""
    size = max(1, len(losses) // SMOOTHING_WINDOWS)
    stretches = [slice(start, start + size) for start in range(0, len(losses) - size + 1, size)]
    return [sum(steps[s]) / size for s in stretches], [sum(losses[s]) / size for s in stretches]


def _draw_true_losses(axes: Axes, histories: Mapping[str, list[Metrics]], units: Mapping[str, float]) -> None:
    """Draw a line at the true entropy of each corpus for which it is known."""
    known = {
        round(line["true_loss"] * units[name], 6)
        for name, history in histories.items()
        for line in history
        if "true_loss" in line
    }
    for true_loss in sorted(known):
        label = f"true entropy ({true_loss:.3f})"
        axes.axhline(true_loss, color=TRUE_LOSS_COLOR, linewidth=1.2, linestyle=(0, (1, 1.5)), label=label)


def _dress(axes: Axes, unit: str) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "235" else "")
    axes.set_ylabel(unit)
    axes.grid(which="both", alpha=0.2, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _dress_rates(axes: Axes) -> None:
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("step")
    axes.set_ylabel("learning rate")
    axes.grid(alpha=0.2, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _cycled(items: Sequence[str], count: int) -> list[str]:
    return [items[index % len(items)] for index in range(count)]
