"""The learning rate as a pure function of the step: warm-up, stable, linear decay (WSD, arXiv:2404.06395)."""

from __future__ import annotations

from train.config import ScheduleSection


def lr_factor(step: int, schedule: ScheduleSection) -> float:
    """What the peak learning rate is multiplied by at a step, counted from 0; always in (0, 1].

    Rises linearly over `warmup_steps`, reaching 1 at the last of them; falls linearly over the last `decay_steps`, so
    that one more step would be at 0.
    """
    rising = (step + 1) / schedule.warmup_steps if schedule.warmup_steps else 1.0
    falling = (schedule.steps - step) / schedule.decay_steps if schedule.decay_steps else 1.0
    return min(rising, 1.0, falling)
