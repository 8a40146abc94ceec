"""The learning rate as a pure function of the step: warm-up, stable, decay (WSD, arXiv:2404.06395)."""

from __future__ import annotations

import math

from train.config import ScheduleSection


def lr_factor(step: int, schedule: ScheduleSection) -> float:
    """The factor on the peak learning rate at a step, counted from 0; in (0, 1].

    The factor rises linearly over `warmup_steps` and reaches 1 at the last of them. It falls from 1 over the last
    `decay_steps`, linearly or along half a cosine (SGDR, arXiv:1608.03983), to `final` one step after the last.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    decayed = step - (schedule.steps - schedule.decay_steps)
    if decayed <= 0:
        return 1.0
    progress = decayed / schedule.decay_steps
    left = 1 - progress if schedule.decay == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return schedule.final + (1 - schedule.final) * left
