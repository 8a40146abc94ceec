"""Programs that show the metrics of a run while it goes on: TensorBoard, Weights & Biases, Trackio.

They are optional packages, imported when a recipe asks for them. What they show is in `metrics.jsonl` too.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from train.config import Recipe, RunSection
from train.errors import RecipeError


class Tracker(Protocol):
    """Receives the numbers of each step."""

    def log(self, numbers: Mapping[str, float], step: int, /) -> None:
        """Note a step's numbers by their names in the metrics."""

    def close(self) -> None:
        """Finish writing."""


class TensorBoard:
    """Events in a folder. Those after `resumed_at` are hidden, because the run repeats them."""

    def __init__(self, folder: Path, resumed_at: int) -> None:
        self._board = _summary_writer_class()(str(folder), purge_step=resumed_at + 1)

    def log(self, numbers: Mapping[str, float], step: int, /) -> None:
        """`Tracker.log`."""
        for name, number in numbers.items():
            if name != "step":
                self._board.add_scalar(name, number, step)

    def close(self) -> None:
        """`Tracker.close`."""
        self._board.close()


class WandbLike:
    """Weights & Biases, or Trackio, whose functions have the same names. A resumed run continues under its name."""

    def __init__(self, package: str, project: str, name: str, recipe: Mapping[str, Any]) -> None:
        self._module = _package(package)
        options = {"id": name} if package == "wandb" else {}
        self._module.init(project=project, name=name, config=dict(recipe), resume="allow", **options)

    def log(self, numbers: Mapping[str, float], step: int, /) -> None:
        """`Tracker.log`."""
        self._module.log(dict(numbers), step=step)

    def close(self) -> None:
        """`Tracker.close`."""
        self._module.finish()


def check_trackers(section: RunSection) -> None:
    """Raise RecipeError where a package that a recipe asks for is not installed."""
    if section.tensorboard:
        _summary_writer_class()
    if section.tracker != "none":
        _package(section.tracker)


def open_trackers(recipe: Recipe, folder: Path, board: Path, resumed_at: int) -> list[Tracker]:
    """The trackers of a recipe.

    Args:
        recipe: its section `run` names them.
        folder: of the run, whose name the run gets there.
        board: the folder of TensorBoard's events.
        resumed_at: the step from which the run continues.
    """
    section = recipe.run
    trackers: list[Tracker] = []
    with ExitStack() as opened:
        if section.tensorboard:
            trackers.append(TensorBoard(board, resumed_at))
            opened.callback(trackers[-1].close)
        if section.tracker != "none":
            trackers.append(WandbLike(section.tracker, section.project, folder.resolve().name, recipe.to_dict()))
        opened.pop_all()
    return trackers


def _summary_writer_class() -> Callable[..., Any]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise RecipeError("run.tensorboard needs a package: pip install tensorboard, or set it to false") from None
    writer: Callable[..., Any] = SummaryWriter
    return writer


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise RecipeError(f"run.tracker needs a package: pip install {name}, or set it to none") from None
