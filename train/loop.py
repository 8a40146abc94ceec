"""The training loop: batch, loss, gradients, clipping, update."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from typing import Any

import torch
from torch import Tensor

from train.data.batches import Batch
from train.distributed.parallel import divide_gradients, forward_and_backward, full_tensor, has_finite_weights
from train.dropout import seed_dropout
from train.errors import RunError
from train.labels import IGNORE_INDEX
from train.run.run import Run
from train.schedule import ENDLESS, end_in_time, lr_factor
from train.signals import Interrupted, noting_signals
from train.step_actions import StepActions
from train.throughput import flops_per_token, peak_flops, peak_memory_bytes

# After this many consecutive steps without a finite loss, the weights will not recover.
MAX_SKIPPED_STEPS = 20


def train(run: Run, *, stop_at: int | None = None) -> dict[str, Any]:
    """Train until the schedule's last step, `stop_at`, the end of `run.patience`, or SIGINT or SIGTERM; then save.

    A signal ends the run within a micro-batch: the state of the last whole step is saved.

    Returns:
        The last step's metrics, `finished`, and `stopped_by`: a signal's name, or None.

    Raises:
        RunError: the loss or its gradient is not finite, a state could not be saved, or another process writes to the
            run's folder. Earlier states are kept.
    """
    run.ranks.on_rank0(run.folder.claim)
    try:
        # Signals are noted until all is saved: one that reaches another rank a little later must not end it meanwhile.
        with noting_signals() as run.received_signal:
            metrics, stopped_by = _take_steps(run, stop_at)
            _save_the_end(run)
    finally:
        run.folder.release()
    name = signal.Signals(stopped_by).name if stopped_by else None
    return metrics | {"finished": run.step == run.schedule.steps and name is None, "stopped_by": name}


def _decide_end(run: Run) -> None:
    """Where a run lasts some hours, see whether its decay must begin, and if so, record when it ends."""
    if not run.recipe.schedule.hours or run.schedule.steps != ENDLESS:
        return
    decided = end_in_time(run.recipe.schedule, run.step, run.seconds) if run.ranks.is_first else None
    steps = run.ranks.all_reduce_max(0 if decided is None else decided.steps)
    decay_steps = run.ranks.all_reduce_max(0 if decided is None else decided.decay_steps)
    if not steps:
        return
    run.schedule = dataclasses.replace(run.schedule, steps=steps, decay_steps=decay_steps)
    if run.ranks.is_first:
        run.folder.note(ending={"steps": steps, "decay_steps": decay_steps})
    run.ranks.print_rank0(f"step {run.step}: the run will end at step {steps}, after a decay of {decay_steps} steps")


def _save_the_end(run: Run) -> None:
    """Save the run where it ends, whatever `run.save_every` says. Raises RunError where the weights are broken."""
    if run.saved_step == run.step:
        return
    if run.skipped_in_a_row and not has_finite_weights(run.model, run.ranks):
        raise RunError(f"weights are not finite at step {run.step}, which is not saved; earlier states are kept")
    run.save()


def _take_steps(run: Run, stop_at: int | None) -> tuple[dict[str, Any], int]:
    """Take the steps that are left, or until a signal. Returns the last step's metrics, and the signal or 0."""
    metrics: dict[str, Any] = {"step": run.step}
    with StepActions(run) as step_actions:
        try:
            step_actions.catch_up()
            while run.step < run.schedule.steps:
                run.check_interrupted()
                if step_actions.is_exhausted:
                    run.ranks.print_rank0(f"stopped early: {run.recipe.run.patience} evaluations found nothing better")
                    break
                if run.step == stop_at:
                    break
                metrics = training_step(run)
                _decide_end(run)
                step_actions.after_step(metrics)
        except Interrupted as interruption:
            _drop_gradients(run)  # of a step that was not completed
            return metrics, interruption.number
    return metrics, 0


def training_step(run: Run) -> dict[str, Any]:
    """One update of the weights from the rows of all ranks. Returns the step's metrics (train.run.metrics).

    Raises Interrupted between two micro-batches; the step was then not taken.
    """
    started = time.perf_counter()
    lr = run.recipe.optimizer.lr * lr_factor(run.step, run.schedule)
    if run.recipe.model.dropout:
        seed_dropout(run.recipe.run.seed, run.step, run.ranks.rank)
    batch = run.batches.batch(run.step)
    tokens, units = run.ranks.all_reduce_sum(int((batch.labels != IGNORE_INDEX).sum()), batch.units)
    loss = _accumulate_gradients(run, batch, units)
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.recipe.optimizer.max_grad_norm)
    grad_norm = full_tensor(norm).item()
    run.step += 1
    metrics = {"step": run.step, "loss": loss, "lr": lr, "grad_norm": grad_norm, "tokens": int(tokens)}
    metrics |= _update(run, lr, loss, grad_norm)
    _drop_gradients(run)
    metrics["tokens_per_second"] = tokens / (time.perf_counter() - started)
    return metrics | _use_of_device(run, metrics["tokens_per_second"], batch.input_ids.shape[-1])


def _update(run: Run, lr: float, loss: float, grad_norm: float) -> dict[str, Any]:
    """Update the weights, unless the loss or a gradient is not finite. Returns what that changes in the metrics."""
    is_finite = math.isfinite(loss) and math.isfinite(grad_norm)
    changes: dict[str, Any] = {}
    if is_finite:
        run.skipped_in_a_row = 0
        for optimizer in run.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
    else:
        _skip_or_stop(run, loss, grad_norm)
        changes = {"loss": loss if math.isfinite(loss) else None, "grad_norm": None, "skipped": True}
    if run.loss_scale is not None:
        run.loss_scale.update(is_finite=is_finite)
        changes |= {"loss_scale": run.loss_scale.factor, "overflows": run.loss_scale.overflows}
    return changes


def _accumulate_gradients(run: Run, batch: Batch, units: float) -> float:
    """Accumulate the gradients of this rank's rows. Returns the mean cross-entropy of all ranks' rows, in nats.

    The loss of a micro-batch is a sum over its tokens (`Batch.units`), divided by those of the whole step. So it does
    not matter how rows are divided into micro-batches and ranks.
    """
    machine, ranks = run.recipe.machine, run.ranks
    scale = 1.0 if run.loss_scale is None else run.loss_scale.factor
    rows = machine.micro_batch_size or len(batch.input_ids)
    parts = list(zip(*(part.split(rows) for part in batch if part is not None), strict=True))
    cross_entropies: list[Tensor] = []
    for number, part in enumerate(parts, start=1):
        if number > 1:
            run.check_interrupted()
        with forward_and_backward(run.loss, machine, ranks, last=number == len(parts)):
            total, cross_entropy = run.loss(*(tensor.to(ranks.device) for tensor in part))
            # DDP and FSDP average gradients over the ranks; here they must be summed.
            (total * (scale * ranks.world_size / units)).backward()
        cross_entropies.append(cross_entropy)
    if scale != 1:
        divide_gradients(run.model, scale)
    return ranks.all_reduce_sum(torch.stack(cross_entropies).sum())[0] / units


def _drop_gradients(run: Run) -> None:
    for optimizer in run.optimizers:
        optimizer.zero_grad(set_to_none=True)


def _skip_or_stop(run: Run, loss: float, grad_norm: float) -> None:
    """Handle a step whose loss is not finite: warn and skip it if the recipe allows that, else raise RunError.

    In float16 such steps are expected: they are how the loss scale finds its value.
    """
    what = f"the loss is {loss} and its gradient's norm {grad_norm} at step {run.step}"
    remedy = "lower optimizer.lr or lengthen schedule.warmup_steps"
    run.skipped_in_a_row += 1
    if run.recipe.optimizer.on_non_finite == "stop" and run.loss_scale is None:
        raise RunError(f"{what}; {remedy}")
    if run.skipped_in_a_row >= MAX_SKIPPED_STEPS:
        raise RunError(f"{what}, as at the {MAX_SKIPPED_STEPS - 1} steps before; {remedy}")
    if run.loss_scale is None:
        run.ranks.print_rank0(f"warning: {what}; the step is skipped")


def _use_of_device(run: Run, tokens_per_second: float, row_tokens: int) -> dict[str, float]:
    use: dict[str, float] = {"memory_bytes": peak_memory_bytes(run.ranks.device)}
    peak = peak_flops(run.recipe.machine, run.ranks.device)
    if peak is not None:
        done = tokens_per_second * flops_per_token(run.model.config, row_tokens)
        use["mfu"] = done / (peak * run.ranks.world_size)
    return use
