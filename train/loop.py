"""The training loop: batch, loss, gradients, clipping, update."""

from __future__ import annotations

import math
import signal
import time
from typing import Any

import torch
from torch import Tensor

from train.data.batches import Batch
from train.distributed.parallel import forward_and_backward, full_tensor
from train.errors import RunError
from train.labels import IGNORE_INDEX
from train.run.run import Run
from train.schedule import lr_factor
from train.signals import noting_signals
from train.step_actions import StepActions
from train.throughput import flops_per_token, peak_flops, peak_memory_bytes

# After this many consecutive steps without a finite loss, the weights will not recover.
MAX_SKIPPED_STEPS = 20


def train(run: Run, *, stop_at: int | None = None) -> dict[str, Any]:
    """Train until the schedule's last step, until `stop_at`, or until SIGINT or SIGTERM arrives; then save.

    Returns:
        The last step's metrics, `finished`, and `stopped_by`: a signal's name, or None.

    Raises:
        RunError: the loss or its gradient is not finite, or a state could not be saved. Earlier states are kept.
    """
    last = run.recipe.schedule.steps
    metrics: dict[str, Any] = {"step": run.step}
    stopped_by = 0
    with StepActions(run) as step_actions, noting_signals() as signal_received:
        while run.step < last:
            stopped_by = run.ranks.all_reduce_max(signal_received())
            if stopped_by or run.step == stop_at:
                run.save()
                break
            metrics = training_step(run)
            step_actions.after_step(metrics)
    name = signal.Signals(stopped_by).name if stopped_by else None
    return metrics | {"finished": run.step == last, "stopped_by": name}


def training_step(run: Run) -> dict[str, Any]:
    """One update of the weights from the rows of all ranks. Returns the step's metrics (train.run.metrics)."""
    started = time.perf_counter()
    lr = run.recipe.optimizer.lr * lr_factor(run.step, run.recipe.schedule)
    batch = run.batches.batch(run.step)
    tokens, units = run.ranks.all_reduce_sum(int((batch.labels != IGNORE_INDEX).sum()), batch.units)
    loss = _accumulate_gradients(run, batch, units)
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.recipe.optimizer.max_grad_norm)
    grad_norm = full_tensor(norm).item()
    run.step += 1
    metrics = {"step": run.step, "loss": loss, "lr": lr, "grad_norm": grad_norm, "tokens": int(tokens)}
    if math.isfinite(loss) and math.isfinite(grad_norm):
        run.skipped_in_a_row = 0
        for optimizer in run.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
    else:
        _skip_or_stop(run, loss, grad_norm)
        metrics |= {"loss": None, "grad_norm": None, "skipped": True}
    for optimizer in run.optimizers:
        optimizer.zero_grad(set_to_none=True)
    metrics["tokens_per_second"] = tokens / (time.perf_counter() - started)
    return metrics | _use_of_device(run, metrics["tokens_per_second"], batch.input_ids.shape[-1])


def _accumulate_gradients(run: Run, batch: Batch, units: float) -> float:
    """Accumulate the gradients of this rank's rows. Returns the mean cross-entropy of all ranks' rows, in nats.

    The loss of a micro-batch is a sum over its tokens (`Batch.units`), divided by those of the whole step. So it does
    not matter how rows are divided into micro-batches and ranks.
    """
    machine, ranks = run.recipe.machine, run.ranks
    rows = machine.micro_batch_size or len(batch.input_ids)
    parts = list(zip(*(part.split(rows) for part in batch if part is not None), strict=True))
    cross_entropies: list[Tensor] = []
    for number, part in enumerate(parts, start=1):
        with forward_and_backward(run.loss, machine, ranks, last=number == len(parts)):
            total, cross_entropy = run.loss(*(tensor.to(ranks.device) for tensor in part))
            # DDP and FSDP average gradients over the ranks; here they must be summed.
            (total * (ranks.world_size / units)).backward()
        cross_entropies.append(cross_entropy)
    return ranks.all_reduce_sum(torch.stack(cross_entropies).sum())[0] / units


def _skip_or_stop(run: Run, loss: float, grad_norm: float) -> None:
    """Handle a step whose loss is not finite: warn and skip it if the recipe allows that, else raise RunError."""
    what = f"the loss is {loss} and its gradient's norm {grad_norm} at step {run.step}"
    remedy = "lower optimizer.lr or lengthen schedule.warmup_steps"
    run.skipped_in_a_row += 1
    if run.recipe.optimizer.on_non_finite == "stop":
        raise RunError(f"{what}; {remedy}")
    if run.skipped_in_a_row >= MAX_SKIPPED_STEPS:
        raise RunError(f"{what}, as at the {MAX_SKIPPED_STEPS - 1} steps before; {remedy}")
    run.ranks.print_rank0(f"warning: {what}; the step is skipped")


def _use_of_device(run: Run, tokens_per_second: float, row_tokens: int) -> dict[str, float]:
    use: dict[str, float] = {"memory_bytes": peak_memory_bytes(run.ranks.device)}
    peak = peak_flops(run.recipe.machine, run.ranks.device)
    if peak is not None:
        done = tokens_per_second * flops_per_token(run.model.config, row_tokens)
        use["mfu"] = done / (peak * run.ranks.world_size)
    return use
