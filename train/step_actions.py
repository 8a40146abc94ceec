"""What is due after a step: evaluation, a sample, metrics, the progress bar, a save."""

from __future__ import annotations

import math
from contextlib import ExitStack
from functools import cached_property
from typing import Any, Self

from runtime.progress import progress_bar
from train.distributed.parallel import autocast, full_model
from train.evaluate import bits_per_byte, count_bytes, held_out_loss, held_out_preferences, sample_text
from train.run.metrics import MetricsWriter
from train.run.run import Run

SAMPLE_SEPARATOR = "\n\n----\n\n"  # between the texts of several prompts


class StepActions:
    """Does what a run's recipe makes due after each step. All ranks must call `after_step` after every step."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._last = run.recipe.schedule.steps
        self._best_held_out_loss = math.inf
        self._open = ExitStack()
        self._writer: MetricsWriter | None = None

    def __enter__(self) -> Self:
        run, first = self._run, self._run.ranks.is_first
        if first:
            board = run.folder.tensorboard if run.recipe.run.tensorboard else None
            writer = MetricsWriter(run.folder.metrics, resumed_at=run.step, tensorboard=board)
            self._writer = self._open.enter_context(writer)
            if run.folder.best.is_dir():
                self._best_held_out_loss = writer.best_held_out_loss
        [self._best_held_out_loss] = run.ranks.all_reduce_sum(self._best_held_out_loss if first else 0.0)
        bar = progress_bar(description="train", unit="steps", total=self._last, initial=run.step, show=first)
        self._progress = self._open.enter_context(bar)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def after_step(self, metrics: dict[str, Any]) -> None:
        """Do what is due. The results of an evaluation are added to `metrics`, which are then written."""
        every = self._run.recipe.run
        sound = metrics["loss"] is not None  # else the model may be broken: it is neither evaluated nor saved
        if sound and self._is_due(every.evaluate_every):
            metrics |= self._evaluate()
            self._run.ranks.print_rank0(report(metrics))
        if sound and self._is_due(every.sample_every):
            self._sample()
        if self._writer is not None:
            self._writer.write(metrics)
        if sound:
            shown = f"loss {metrics['loss']:.3f}, {metrics['tokens_per_second']:,.0f} tokens/s"
            self._progress.set_postfix_str(shown, refresh=False)
        self._progress.update()
        if sound and self._is_due(every.save_every):
            self._run.save()

    def _is_due(self, every: int) -> bool:
        """Whether an action with this interval is due now. At the last step all are due; 0 switches an action off."""
        step = self._run.step
        return every > 0 and (step % every == 0 or step == self._last)

    def _evaluate(self) -> dict[str, float]:
        """Compute the held-out loss. A model better than all before it is saved in the folder `best`."""
        run = self._run
        with autocast(run.recipe.machine, run.ranks):
            if run.recipe.preference is not None:
                found = held_out_preferences(run.loss, run.corpus, run.recipe.data.context, run.ranks)
            else:
                loss = held_out_loss(run.loss, run.corpus, run.recipe.data.context, run.ranks)
                found = {"held_out_loss": loss, "bits_per_byte": bits_per_byte(loss, run.corpus, self._held_out_bytes)}
        loss = found["held_out_loss"]
        if run.corpus.true_loss is not None:
            found |= {"true_loss": run.corpus.true_loss, "entropy_ratio": loss / run.corpus.true_loss}
        if loss < self._best_held_out_loss:
            self._best_held_out_loss = loss
            run.save_model(run.folder.best)
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
