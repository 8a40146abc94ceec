"""The training loop: batch, loss, gradients, clip, update; now and then an evaluation, a sample and a save."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from model import TransformerModel
from train.batches import IGNORED
from train.errors import RunError
from train.evaluate import held_out_loss, sample_text
from train.metrics import MetricsWriter
from train.prepare import Run
from train.schedule import lr_factor


def train(run: Run) -> dict[str, Any]:
    """Train until the schedule's last step, or until the process is asked to stop (SIGINT); then save.

    Returns:
        The last step's metrics, and `finished`.

    Raises:
        RunError: the loss or its gradient ceased to be finite. What was saved before stays.
    """
    schedule, last = run.recipe.run, run.recipe.schedule.steps
    metrics: dict[str, Any] = {"step": run.step}
    with (
        MetricsWriter(run.folder.metrics, resumed_at=run.step) as writer,
        tqdm(total=last, initial=run.step, unit="step", dynamic_ncols=True) as progress,
        _stop_on_interrupt() as asked_to_stop,
    ):
        while run.step < last and not asked_to_stop():
            metrics = training_step(run)
            if _is_due(run.step, schedule.evaluate_every, last):
                metrics |= _evaluate(run)
                progress.write(_report(metrics), file=progress.fp)
            if _is_due(run.step, schedule.sample_every, last):
                progress.write(_sample(run), file=progress.fp)
            writer.write(metrics)
            progress.update()
            progress.set_postfix_str(f"loss {metrics['loss']:.3f}", refresh=False)
            if _is_due(run.step, schedule.save_every, last):
                run.save()
        if asked_to_stop():
            run.save()
    return metrics | {"finished": run.step == last}


def training_step(run: Run) -> dict[str, Any]:
    """One update of the weights; returns its metrics."""
    started = time.perf_counter()
    lr = run.recipe.optimizer.lr * lr_factor(run.step, run.recipe.schedule)
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    input_ids, labels, document_ids = run.batches.batch(run.step)
    loss = next_token_loss(run.model, input_ids, labels, document_ids)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    grad_norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.recipe.optimizer.max_grad_norm)
    if not (math.isfinite(loss.item()) and math.isfinite(grad_norm.item())):
        raise RunError(
            f"the loss is {loss.item()} and its gradient's norm {grad_norm.item()} at step {run.step + 1}; "
            "lower optimizer.lr or lengthen schedule.warmup_steps"
        )
    run.optimizer.step()
    run.step += 1
    tokens = int((labels != IGNORED).sum())
    return {
        "step": run.step,
        "loss": loss.item(),
        "lr": lr,
        "grad_norm": grad_norm.item(),
        "tokens": tokens,
        "tokens_per_second": tokens / (time.perf_counter() - started),
    }


def next_token_loss(
    model: TransformerModel, input_ids: Tensor, labels: Tensor, document_ids: Tensor | None = None
) -> Tensor:
    """The mean cross-entropy in nats a token; input_ids, labels and document_ids int64 [batch, sequence]."""
    documents = None if document_ids is None else document_ids.to(model.device)
    logits = model(input_ids.to(model.device), document_ids=documents)
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten().to(model.device), ignore_index=IGNORED)


def _is_due(step: int, every: int, last: int) -> bool:
    """Whether something that happens every so many steps happens now: so it does at the end, unless switched off."""
    return every > 0 and (step % every == 0 or step == last)


def _evaluate(run: Run) -> dict[str, float]:
    loss = held_out_loss(run.model, run.corpus, run.recipe.data.context)
    true_loss = run.corpus.true_loss
    if true_loss is None:
        return {"held_out_loss": loss}
    return {"held_out_loss": loss, "true_loss": true_loss, "entropy_ratio": loss / true_loss}


def _report(metrics: dict[str, Any]) -> str:
    line = f"step {metrics['step']}: loss {metrics['loss']:.4f}, held out {metrics['held_out_loss']:.4f} nats a token"
    if "entropy_ratio" in metrics:
        line += f", {metrics['entropy_ratio']:.3f} x the corpus' true entropy"
    return line


def _sample(run: Run) -> str:
    """Let the model write a text; keep it in the run folder."""
    text = sample_text(run.model, run.tokenizer, seed=run.step)
    with run.folder.samples.open("a", encoding="utf-8") as file:
        file.write(f"step {run.step}\n{text}\n\n")
    return f"  | {text}"


@contextmanager
def _stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGINT came; a second one interrupts at once."""
    received = False

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal received
        if received:
            raise KeyboardInterrupt
        received = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: received
    finally:
        signal.signal(signal.SIGINT, before)
