"""The learning rate as a pure function of the step: warm-up, stable, decay (WSD, arXiv:2404.06395).

A run's length may be given in tokens, epochs or hours; here it becomes a number of steps. Hours do so while the run
goes on: when the time that is left is what the decay takes, the decay begins.
"""

from __future__ import annotations

import dataclasses
import math

from train.config import ScheduleSection

ENDLESS = 2**62  # the steps of a run whose end is not decided yet


def in_steps(schedule: ScheduleSection, *, batch_size: int, epoch_rows: int, epoch_tokens: float) -> ScheduleSection:
    """The schedule with its length and its decay in steps. Raises RecipeError where the decay does not fit in.

    Args:
        schedule: of the recipe.
        batch_size: rows per step.
        epoch_rows: rows in one reading of the text.
        epoch_tokens: tokens with a label in one reading of the text.
    """
    if schedule.hours:
        return dataclasses.replace(schedule, hours=0, steps=ENDLESS, decay_steps=0, decay_share=0)
    rows = schedule.steps * batch_size or schedule.epochs * epoch_rows or schedule.tokens * epoch_rows / epoch_tokens
    steps = max(1, math.ceil(round(rows / batch_size, 6)))
    decay_steps = schedule.decay_steps or round(schedule.decay_share * steps)
    return _of_length(schedule, steps, decay_steps)


def end_in_time(schedule: ScheduleSection, step: int, seconds: float) -> ScheduleSection | None:
    """The schedule of a run of some hours in steps, once its decay must begin; None before that.

    Args:
        schedule: of the recipe, in hours.
        step: how many steps have been taken, at least one.
        seconds: how long they took, evaluations and saves included.
    """
    limit, per_step = schedule.hours * 3600, seconds / step
    decay_seconds = schedule.decay_steps * per_step or schedule.decay_share * limit
    if seconds + per_step + decay_seconds < limit:
        return None
    decay_steps = max(0, round(min(decay_seconds, limit - seconds) / per_step))
    warmed = dataclasses.replace(schedule, warmup_steps=min(step, schedule.warmup_steps))
    return _of_length(warmed, step + decay_steps, decay_steps)


def first_difference(one: ScheduleSection, other: ScheduleSection, limit: int) -> int:
    """The first of `limit` steps at which two schedules have different rates, or `limit`."""
    return next((step for step in range(limit) if lr_factor(step, one) != lr_factor(step, other)), limit)


def _of_length(schedule: ScheduleSection, steps: int, decay_steps: int) -> ScheduleSection:
    return dataclasses.replace(
        schedule, steps=steps, tokens=0, epochs=0, hours=0, decay_steps=decay_steps, decay_share=0
    )


def lr_factor(step: int, schedule: ScheduleSection) -> float:
    """The factor on the peak learning rate at a step, counted from 0; in (0, 1].

    The factor rises linearly over `warmup_steps` and reaches 1 at the last of them. It falls from 1 over the last
    `decay_steps`, linearly or along half a cosine (SGDR, arXiv:1608.03983), to `final` one step after the last.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    decayed = step - schedule.decay_start
    if decayed <= 0:
        return 1.0
    progress = decayed / schedule.decay_steps
    left = 1 - progress if schedule.decay == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return schedule.final + (1 - schedule.final) * left
