"""`python -m app` whose steps wait for leave, and whose texts end at their length alone: `gated_run.py FOLDER run …`.

A test decides by files in FOLDER how far the model gets, and need not guess how long something takes: `limit` holds how
many steps may have been taken in all (without it they run freely), `steps` how many were.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

from app import serving
from app.__main__ import main
from runtime.bundle import Bundle
from runtime.engine.scheduler import Scheduler


class EndlessBundle(Bundle):
    """Without end-of-text ids: a model that may end anywhere cannot be stopped in the midst of a text."""

    @staticmethod
    def open(*args, **kwargs) -> Bundle:
        return replace(Bundle.open(*args, **kwargs), eos_token_ids=frozenset())


def gate(folder: Path) -> None:
    step, limit, steps = Scheduler.step, folder / "limit", folder / "steps"
    taken = 0

    def allowed() -> bool:
        try:
            return taken < int(limit.read_text() or 0)
        except FileNotFoundError:
            return True

    def gated(scheduler: Scheduler) -> list:
        nonlocal taken
        while not allowed():
            time.sleep(0.005)
        found = step(scheduler)
        taken += 1
        steps.write_text(str(taken))
        return found

    Scheduler.step = gated


if __name__ == "__main__":
    gate(Path(sys.argv[1]))
    serving.Bundle = EndlessBundle
    sys.exit(main(sys.argv[2:]))
