"""What is due after a step: evaluation, a sample, metrics, the progress bar, a save."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from functools import cached_property
from typing import Any, Self

from runtime.progress import progress_bar
from train.distributed.parallel import autocast, full_model
from train.evaluate import bits_per_byte, count_bytes, held_out_loss, held_out_preferences, sample_text
from train.run.metrics import Metrics, MetricsWriter
from train.run.run import Run
from train.run.trackers import open_trackers
from train.schedule import ENDLESS

SAMPLE_SEPARATOR = "\n\n----\n\n"  # between the texts of several prompts


class StepActions:
    """Does what a run's recipe makes due after each step. All ranks must call `after_step` after every step."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._best_held_out_loss = math.inf
        self._evaluations_since_best = 0
        self._open = ExitStack()
        self._writer: MetricsWriter | None = None

    def __enter__(self) -> Self:
        run, first = self._run, self._run.ranks.is_first
        kept = self._open_metrics() if first else []
        run.seconds_before, run.started = kept[-1].get("seconds", 0.0) if kept else 0.0, time.monotonic()
        evaluations = [line["held_out_loss"] for line in kept if "held_out_loss" in line]
        best = min(evaluations, default=math.inf)
        since = len(evaluations) - 1 - evaluations.index(best) if evaluations else 0
        if not run.folder.best.is_dir():
            best = math.inf
        [self._best_held_out_loss] = run.ranks.all_reduce_sum(best if first else 0.0)
        self._evaluations_since_best = run.ranks.all_reduce_max(since)
        total = None if run.schedule.steps == ENDLESS else run.schedule.steps
        bar = progress_bar(description="train", unit="steps", total=total, initial=run.step, show=first)
        self._progress = self._open.enter_context(bar)
        return self

    def _open_metrics(self) -> list[Metrics]:
        """Open the metrics file and the trackers. Returns the lines up to the step at which the run is."""
        run, folder = self._run, self._run.folder
        trackers = open_trackers(run.recipe, folder.path, folder.tensorboard, run.step)
        self._writer = self._open.enter_context(MetricsWriter(folder.metrics, run.step, trackers=trackers))
        return self._writer.kept

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def after_step(self, metrics: dict[str, Any]) -> None:
        """Do what is due. The results of an evaluation are added to `metrics`, which are then written.

        Raises Interrupted where a signal arrives in an evaluation; the metrics are written without it.
        """
        metrics["seconds"] = round(self._run.seconds, 3)
        sound = metrics["loss"] is not None  # else the model may be broken: it is neither evaluated nor saved
        try:
            if sound:
                self._evaluate_and_sample(metrics)
        finally:
            if self._writer is not None:
                self._writer.write(metrics)
        if sound:
            shown = f"loss {metrics['loss']:.3f}, {metrics['tokens_per_second']:,.0f} tokens/s"
            self._progress.set_postfix_str(shown, refresh=False)
        self._progress.update()
        if sound and self._is_save_due():
            self._run.save()

    @property
    def is_exhausted(self) -> bool:
        """Whether so many evaluations have found nothing better that the run should stop (`run.patience`)."""
        patience = self._run.recipe.run.patience
        return 0 < patience <= self._evaluations_since_best

    def catch_up(self) -> None:
        """Do the evaluation and the sample of the step that the run resumes from, where a signal prevented them."""
        run = self._run
        line = self._writer.kept[-1] if self._writer is not None and self._writer.kept else None
        is_left = (
            line is not None
            and line["step"] == run.step
            and line["loss"] is not None
            and "held_out_loss" not in line
            and self._is_due(run.recipe.run.evaluate_every)
        )
        if not run.ranks.all_reduce_max(int(is_left)):
            return
        metrics = dict(line or {"step": run.step, "loss": 0.0})  # rank 0 alone has the line, and uses it
        self._evaluate_and_sample(metrics)
        if self._writer is not None:
            self._writer.replace_last_kept(metrics)

    def _evaluate_and_sample(self, metrics: dict[str, Any]) -> None:
        """Add an evaluation to `metrics` and keep a sample, where they are due. Raises Interrupted."""
        run = self._run
        if self._is_due(run.recipe.run.evaluate_every):
            metrics |= self._evaluate()
            run.ranks.print_rank0(report(metrics))
        if self._is_due(run.recipe.run.sample_every):
            run.check_interrupted()
            self._sample()

    def _is_due(self, every: int) -> bool:
        """Whether an action with this interval is due now. At the last step all are due; 0 switches an action off."""
        return every > 0 and (self._run.step % every == 0 or self._run.step == self._run.schedule.steps)

    def _is_save_due(self) -> bool:
        """Whether a save is due: where the rate begins to fall always, because a run is extended from there."""
        run = self._run
        return self._is_due(run.recipe.run.save_every) or run.step == run.schedule.decay_start < run.schedule.steps

    def _evaluate(self) -> dict[str, float]:
        """Compute the held-out loss. A model better than all before it is saved in the folder `best`."""
        run = self._run
        with autocast(run.recipe.machine, run.ranks):
            context = run.recipe.data.context
            if run.recipe.preference is not None:
                found = held_out_preferences(run.loss, run.corpus, context, run.ranks, check=run.check_interrupted)
            else:
                loss = held_out_loss(run.loss, run.corpus, context, run.ranks, check=run.check_interrupted)
                found = {"held_out_loss": loss, "bits_per_byte": bits_per_byte(loss, run.corpus, self._held_out_bytes)}
        loss = found["held_out_loss"]
        if run.corpus.true_loss is not None:
            found |= {"true_loss": run.corpus.true_loss, "entropy_ratio": loss / run.corpus.true_loss}
        if loss < self._best_held_out_loss:
            self._best_held_out_loss, self._evaluations_since_best = loss, 0
            run.save_model(run.folder.best)
        else:
            self._evaluations_since_best += 1
        return found

    def _sample(self) -> None:
        """Generate a text for each prompt, and keep them in the run folder."""
        run = self._run
        model = full_model(run.model, run.ranks)
        if model is None:
            return
        recipe = run.recipe.run
        texts = [
            sample_text(
                model,
                run.tokenizer,
                seed=run.step,
                prompt_ids=prompt_ids,
                max_new_tokens=recipe.sample_tokens,
                sliding_window=recipe.sample_sliding_window,
            )
            for prompt_ids in run.sample_prompts
        ]
        run.folder.save_sample(SAMPLE_SEPARATOR.join(texts), run.step)
        for text in texts:
            run.ranks.print_rank0(f"  | {text}")

    @cached_property
    def _held_out_bytes(self) -> int:
        return count_bytes(self._run.corpus, self._run.tokenizer)


def report(metrics: dict[str, Any]) -> str:
    """An evaluation in one line."""
    line = f"step {metrics['step']}: loss {metrics['loss']:.4f}, held out {metrics['held_out_loss']:.4f}"
    if "margin" in metrics:
        return f"{line}, margin {metrics['margin']:.3f}, {metrics['preference_accuracy']:.1%} of pairs in order"
    line += f" nats per token, {metrics['bits_per_byte']:.3f} bits per byte"
    if "entropy_ratio" in metrics:
        line += f", {metrics['entropy_ratio']:.3f} x the corpus' true entropy"
    return line
