"""Runs tasks on models and compares them item by item."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from train.errors import RecipeError
from train.harness.scorers import Scorer
from train.harness.tasks import harness_config, task_names

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

Z_95 = 1.959964  # of the normal distribution
Interval = tuple[float, float]
Scores = dict[str, tuple[str, np.ndarray]]  # by task: the name of a metric, and its value for each item
ALL = "all"  # tasks together


@dataclass(frozen=True)
class TaskResult:
    """How a model did on one task.

    Attributes:
        model, task, metric: names; the metric is the task's first one.
        items: asked.
        score: the mean over items.
        interval: of the score, 95 %.
        difference: of the score from the first model's on the same items; None for the first model.
        difference_interval: 95 %, from the differences of each item.
    """

    model: str
    task: str
    metric: str
    items: int
    score: float
    interval: Interval
    difference: float | None = None
    difference_interval: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def evaluate(
    scorers: Iterable[Scorer], tasks: Sequence[str] = (), *, limit: int | None = None, chat: bool = False
) -> list[TaskResult]:
    """The results of each model on each task and on all; those of the second model on are compared with the first's.

    Args:
        scorers: the models; each is asked before the next is opened.
        tasks: names of ours or of the harness's own, which it downloads; none for all of ours.
        limit: the most items of a task.
        chat: ask by each model's chat template.

    Raises:
        RecipeError: lm-eval is not installed, or there is no such task.
    """
    results: list[TaskResult] = []
    first: dict[str, np.ndarray] = {}
    for scorer in scorers:
        for task, (metric, values) in _with_all(_item_scores(scorer, tasks or task_names(), limit, chat=chat)).items():
            against: tuple[float | None, Interval | None] = None, None
            if task in first:
                differences = values - first[task]
                against = float(differences.mean()), difference_interval(differences)
            score = float(values.mean()), score_interval(values)
            results.append(TaskResult(scorer.name, task, metric, len(values), *score, *against))
            first.setdefault(task, values)
    return results


def score_interval(values: np.ndarray) -> Interval:
    """The 95 % interval of the mean of independent values.

    Of values that are 0 or 1 it is Wilson's (1927), which stays within these and has a width where all are alike; of
    others that of the normal distribution.
    """
    if not np.isin(values, (0, 1)).all():
        return _normal_interval(values)
    n, mean = len(values), float(values.mean())
    center = (mean + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half = Z_95 / (1 + Z_95**2 / n) * math.sqrt(mean * (1 - mean) / n + Z_95**2 / (4 * n * n))
    return center - half, center + half


def difference_interval(differences: np.ndarray) -> Interval:
    """The 95 % interval of the mean of differences between two models' values of the same items.

    Of values that are 0 or 1 it is that of Agresti and Min (2005, "Simple improved confidence intervals for comparing
    matched proportions"): half an item more is counted in each cell of the table of both models' answers, so that two
    models with the same answers are not told to be the same for certain. Of others it is the normal distribution's.
    """
    if not np.isin(differences, (-1, 0, 1)).all():
        return _normal_interval(differences)
    n = len(differences) + 2
    better, worse = (np.count_nonzero(differences == sign) + 0.5 for sign in (1, -1))
    mean = (better - worse) / n
    half = Z_95 * math.sqrt(better + worse - (better - worse) ** 2 / n) / n
    return mean - half, mean + half


def _normal_interval(values: np.ndarray) -> Interval:
    mean = float(values.mean())
    half = Z_95 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return mean - half, mean + half


def table(results: Sequence[TaskResult]) -> str:
    """Lines for a terminal."""
    lines = [f"{'task':<14} {'items':>5}  {'score':<16} {'difference':<16} model"]
    for result in results:
        score = _text(100 * result.score, result.interval)
        difference = ""
        if result.difference is not None and result.difference_interval is not None:
            difference = _text(100 * result.difference, result.difference_interval, sign="+")
        lines.append(f"{result.task:<14} {result.items:>5}  {score:<16} {difference:<16} {result.model}")
    return "\n".join(lines)


def _text(percent: float, interval: Interval, sign: str = "") -> str:
    return f"{percent:{sign}.1f} ±{50 * (interval[1] - interval[0]):.1f} %"


def _with_all(scores: Scores) -> Scores:
    """The scores with those of all items together, where there are several tasks of one metric."""
    metrics = {metric for metric, _ in scores.values()}
    if len(scores) < 2 or len(metrics) > 1:
        return scores
    return scores | {ALL: (metrics.pop(), np.concatenate([values for _, values in scores.values()]))}


def _item_scores(scorer: Scorer, tasks: Sequence[str], limit: int | None, *, chat: bool) -> Scores:
    """For each task the name of its first metric, and that metric of each item."""
    try:
        from lm_eval import simple_evaluate
        from lm_eval.api.task import ConfigurableTask
        from lm_eval.tasks import TaskManager

        from train.harness.harness_model import HarnessModel
    except ImportError as error:
        raise RecipeError(f"evaluate needs lm-eval ({error.name} is missing): pip install lm-eval") from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager()
    _check_names(tasks, manager)
    made = [ConfigurableTask(config=harness_config(name)) if name in task_names() else name for name in tasks]
    found = simple_evaluate(
        HarnessModel(scorer, chat=chat),
        tasks=made,
        limit=limit,
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=chat,
        task_manager=manager,
        verbosity="ERROR",
    )
    scores = {}
    for name, samples in found["samples"].items():
        metric = samples[0]["metrics"][0]
        ordered = sorted(samples, key=lambda sample: sample["doc_id"])
        scores[name] = metric, np.array([float(sample[metric]) for sample in ordered])
    return scores


def _check_names(tasks: Sequence[str], manager: TaskManager) -> None:
    known = {*task_names(), *manager.all_tasks}
    if unknown := [name for name in tasks if name not in known]:
        ours = ", ".join(task_names())
        raise RecipeError(f"there is no task {unknown[0]}; ours are {ours}, the others those of `lm-eval ls tasks`")
