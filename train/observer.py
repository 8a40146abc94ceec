"""What happens between steps: evaluation, a sample, metrics, the progress bar, a save."""

from __future__ import annotations

import math
from contextlib import ExitStack
from functools import cached_property
from typing import Any, Self

from tqdm import tqdm

from train.distributed.parallel import autocast, whole_model
from train.evaluate import bits_per_byte, count_bytes, held_out_loss, sample_text
from train.run.metrics import MetricsWriter
from train.setup import Run


class Observer:
    """Sees every step of a run, and does what is due after it. All ranks must let theirs see all steps."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._last = run.recipe.schedule.steps
        self._least_held_out_loss = math.inf
        self._open = ExitStack()
        self._writer: MetricsWriter | None = None

    def __enter__(self) -> Self:
        run, first = self._run, self._run.ranks.is_first
        if first:
            board = run.folder.tensorboard if run.recipe.run.tensorboard else None
            writer = MetricsWriter(run.folder.metrics, resumed_at=run.step, tensorboard=board)
            self._writer = self._open.enter_context(writer)
            if run.folder.best.is_dir():
                self._least_held_out_loss = writer.least_held_out_loss
        [self._least_held_out_loss] = run.ranks.sum(self._least_held_out_loss if first else 0.0)
        bar = tqdm(total=self._last, initial=run.step, unit="step", dynamic_ncols=True, disable=not first)
        self._progress = self._open.enter_context(bar)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def after_step(self, metrics: dict[str, Any]) -> None:
        """Do what is due; `metrics` gets what an evaluation finds, and is written."""
        every = self._run.recipe.run
        sound = metrics["loss"] is not None  # a model that may be broken is not judged, and never replaces a saved one
        if sound and self._is_due(every.evaluate_every):
            metrics |= self._evaluate()
            self._run.ranks.say(report(metrics))
        if sound and self._is_due(every.sample_every):
            self._sample()
        if self._writer is not None:
            self._writer.write(metrics)
        if sound:
            self._progress.set_postfix_str(f"loss {metrics['loss']:.3f}", refresh=False)
        self._progress.update()
        if sound and self._is_due(every.save_every):
            self._run.save()

    def _is_due(self, every: int) -> bool:
        """Whether what happens every so many steps happens now: so it does at the end, unless switched off."""
        step = self._run.step
        return every > 0 and (step % every == 0 or step == self._last)

    def _evaluate(self) -> dict[str, float]:
        """The held-out loss; a model that is better than all before goes to the folder `best`."""
        run = self._run
        with autocast(run.recipe.machine, run.ranks):
            loss = held_out_loss(run.loss, run.corpus, run.recipe.data.context, run.ranks)
        found = {"held_out_loss": loss, "bits_per_byte": bits_per_byte(loss, run.corpus, self._held_out_bytes)}
        if run.corpus.true_loss is not None:
            found |= {"true_loss": run.corpus.true_loss, "entropy_ratio": loss / run.corpus.true_loss}
        if loss < self._least_held_out_loss:
            self._least_held_out_loss = loss
            run.save_model(run.folder.best)
        return found

    def _sample(self) -> None:
        """Let the model write a text; keep it in the run folder."""
        run = self._run
        model = whole_model(run.model, run.ranks)
        if model is None:
            return
        text = sample_text(model, run.tokenizer, seed=run.step)
        run.folder.save_sample(text, run.step)
        self._run.ranks.say(f"  | {text}")

    @cached_property
    def _held_out_bytes(self) -> int:
        return count_bytes(self._run.corpus, self._run.tokenizer)


def report(metrics: dict[str, Any]) -> str:
    """An evaluation as a line."""
    line = f"step {metrics['step']}: loss {metrics['loss']:.4f}, held out {metrics['held_out_loss']:.4f} nats a token"
    line += f", {metrics['bits_per_byte']:.3f} bits a byte"
    if "entropy_ratio" in metrics:
        line += f", {metrics['entropy_ratio']:.3f} x the corpus' true entropy"
    return line
