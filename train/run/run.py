"""A run in memory: the model, its optimizers and data, and the step they are at."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer
from torch import nn
from torch.optim import Optimizer

from model import TransformerModel
from train.config import Recipe, ScheduleSection
from train.data.batches import Batches
from train.data.corpus import Corpus
from train.data.streamed_batches import StreamedBatches
from train.distributed.parallel import full_model
from train.distributed.ranks import Ranks
from train.lora import save_adapters
from train.precision import LossScale
from train.run.folder import RunFolder
from train.schedule import in_steps
from train.signals import Interrupted, no_signal


@dataclass
class Run:
    """A run at one of its steps, as one of its ranks sees it."""

    recipe: Recipe
    folder: RunFolder
    ranks: Ranks
    model: TransformerModel
    loss: nn.Module  # a NextTokenLoss over the model, as `parallelize` returns it
    optimizers: tuple[Optimizer, ...]
    tokenizer: Tokenizer
    corpus: Corpus
    batches: Batches | StreamedBatches
    sample_prompts: Sequence[Sequence[int]] = ()  # the token ids that each sample starts from
    step: int = 0  # updates made
    seconds_before: float = 0.0  # that earlier sessions took
    started: float = field(default_factory=time.monotonic)
    schedule: ScheduleSection = field(init=False)  # the recipe's, in steps
    skipped_in_a_row: int = 0  # consecutive steps up to this one whose loss was not finite
    loss_scale: LossScale | None = None  # in float16 alone
    saved_step: int | None = None  # of the last state that was saved or loaded
    received_signal: Callable[[], int] = no_signal  # the number of a signal that asks this rank to stop, or 0

    def __post_init__(self) -> None:
        self.schedule = self.schedule_of(self.recipe)

    @property
    def seconds(self) -> float:
        """How long the run has taken so far, in all sessions, evaluations and saves included."""
        return self.seconds_before + time.monotonic() - self.started

    def schedule_of(self, recipe: Recipe, ending: Mapping[str, int] | None = None) -> ScheduleSection:
        """A recipe's schedule in steps, on this run's data; `ending` is that of a run of some hours, if decided."""
        epoch = self.batches.epoch
        batch_size = recipe.data.batch_size
        schedule = in_steps(recipe.schedule, batch_size=batch_size, epoch_rows=epoch.rows, epoch_tokens=epoch.tokens)
        return schedule if ending is None else dataclasses.replace(schedule, **ending)

    def check_interrupted(self) -> None:
        """Raise Interrupted where a rank was asked to stop. All ranks must call this."""
        if number := self.ranks.all_reduce_max(self.received_signal()):
            raise Interrupted(number)

    def save(self) -> None:
        """Write the state, then the checkpoint. All ranks must call this. Raises RunError, as `States.save` does."""
        self.folder.states.save(
            self.model,
            self.optimizers,
            self.ranks,
            step=self.step,
            data=self.corpus.fingerprint(),
            loss_scale=self.loss_scale,
            keep={self.schedule.decay_start},
            keep_last=self.recipe.run.keep_last,
            save_data=self.batches.save,
        )
        self.save_model(self.folder.checkpoint)
        lora, base = self.recipe.lora, self.recipe.model.init_from
        if lora is not None and base is not None and self.ranks.is_first:
            save_adapters(self.model, lora, base, self.folder.adapter)
        self.saved_step = self.step

    def save_model(self, folder: Path) -> None:
        """Write the model as a checkpoint folder. All ranks must call this."""
        model = full_model(self.model, self.ranks)
        if model is not None:
            self.folder.save_model(model, folder)
        self.ranks.barrier()
