"""The losses of the training run that a bundle comes from, where its folder is at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"
MOST_POINTS = 240


def loss_curve(source: object) -> dict[str, list[list[float]]] | None:
    """Steps with training losses, as means of equally many, and with held-out losses.

    Args:
        source: the checkpoint's folder, as the manifest names it; a run keeps its metrics beside it.

    Returns:
        `training` and `held_out`, lists of [step, loss in nats per token]; None where there is no run.
    """
    if not isinstance(source, str) or not Path(source).is_dir():
        return None
    folder = Path(source).resolve()
    path = next((parent / METRICS for parent in (folder, folder.parent) if (parent / METRICS).is_file()), None)
    if path is None:
        return None
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        losses = [(line["step"], line["loss"]) for line in lines if line.get("loss") is not None]
        held_out = [[line["step"], line["held_out_loss"]] for line in lines if line.get("held_out_loss") is not None]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # it may be written at this moment
        return None
    return {"training": _means(losses), "held_out": held_out} if losses else None


def _means(losses: list[tuple[Any, Any]]) -> list[list[float]]:
    size = max(1, len(losses) // MOST_POINTS)
    stretches = [losses[start : start + size] for start in range(0, len(losses), size)]
    return [[stretch[-1][0], sum(loss for _, loss in stretch) / len(stretch)] for stretch in stretches]
