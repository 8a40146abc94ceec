"""The training loop: batch, loss, gradients, clip, update."""

from __future__ import annotations

import math
import signal
import time
from typing import Any

import torch
from torch import Tensor

from train.data.batches import IGNORED, Batch
from train.distributed.parallel import forward_and_backward, whole
from train.errors import RunError
from train.observer import Observer
from train.schedule import lr_factor
from train.setup import Run
from train.signals import noting_signals
from train.throughput import flops_per_token, peak_flops, peak_memory_bytes

# So many steps in a row without a finite loss, and the weights are beyond help.
SKIPPED_AT_MOST = 20


def train(run: Run, *, stop_at: int | None = None) -> dict[str, Any]:
    """Train until the schedule's last step, or a step before it, or until SIGINT or SIGTERM comes; then save.

    Returns:
        The last step's metrics, `finished`, and `stopped_by`: a signal's name, or None.

    Raises:
        RunError: the loss or its gradient ceased to be finite, or a state could not be saved. What was saved before
            stays.
    """
    last = run.recipe.schedule.steps
    metrics: dict[str, Any] = {"step": run.step}
    stopped_by = 0
    with Observer(run) as observer, noting_signals() as signal_received:
        while run.step < last:
            stopped_by = run.ranks.largest(signal_received())
            if stopped_by or run.step == stop_at:
                run.save()
                break
            metrics = training_step(run)
            observer.after_step(metrics)
    name = signal.Signals(stopped_by).name if stopped_by else None
    return metrics | {"finished": run.step == last, "stopped_by": name}


def training_step(run: Run) -> dict[str, Any]:
    """One update of the weights, from all ranks' rows; returns its metrics."""
    started = time.perf_counter()
    lr = run.recipe.optimizer.lr * lr_factor(run.step, run.recipe.schedule)
    batch = run.batches.batch(run.step)
    [tokens] = run.ranks.sum(int((batch.labels != IGNORED).sum()))
    loss = _accumulate_gradients(run, batch, tokens)
    grad_norm = whole(torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.recipe.optimizer.max_grad_norm)).item()
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
    return metrics | _use_of_device(run, metrics["tokens_per_second"], batch.input_ids.shape[1])


def _accumulate_gradients(run: Run, batch: Batch, tokens: float) -> float:
    """Add up the gradients of this rank's rows; return the mean cross-entropy of all ranks' rows, in nats a token.

    Each part's loss is a sum over its tokens, divided by the tokens of the whole step, so that it does not matter how
    rows fall into micro-batches and ranks.
    """
    machine, ranks = run.recipe.machine, run.ranks
    rows = machine.micro_batch_size or len(batch.input_ids)
    parts = list(zip(*(part.split(rows) for part in batch if part is not None), strict=True))
    cross_entropies: list[Tensor] = []
    for number, part in enumerate(parts, start=1):
        with forward_and_backward(run.loss, machine, ranks, last=number == len(parts)):
            total, cross_entropy = run.loss(*(tensor.to(ranks.device) for tensor in part))
            # DDP and FSDP divide by the number of ranks what they sum over them.
            (total * (ranks.world_size / tokens)).backward()
        cross_entropies.append(cross_entropy)
    return ranks.sum(torch.stack(cross_entropies).sum())[0] / tokens


def _skip_or_stop(run: Run, loss: float, grad_norm: float) -> None:
    """A step whose loss is no number: leave it out, if the recipe says so. Raises RunError if not, or too often."""
    what = f"the loss is {loss} and its gradient's norm {grad_norm} at step {run.step}"
    remedy = "lower optimizer.lr or lengthen schedule.warmup_steps"
    run.skipped_in_a_row += 1
    if run.recipe.optimizer.on_non_finite == "stop":
        raise RunError(f"{what}; {remedy}")
    if run.skipped_in_a_row >= SKIPPED_AT_MOST:
        raise RunError(f"{what}, as at the {SKIPPED_AT_MOST - 1} steps before; {remedy}")
    run.ranks.say(f"warning: {what}; the step is left out")


def _use_of_device(run: Run, tokens_per_second: float, row_tokens: int) -> dict[str, float]:
    use: dict[str, float] = {"memory_bytes": peak_memory_bytes(run.ranks.device)}
    peak = peak_flops(run.recipe.machine, run.ranks.device)
    if peak is not None:
        done = tokens_per_second * flops_per_token(run.model.config, row_tokens)
        use["mfu"] = done / (peak * run.ranks.world_size)
    return use
