"""A run in memory: the model, its optimizers and data, and the step they are at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from torch import nn
from torch.optim import Optimizer

from model import TransformerModel
from train.config import Recipe
from train.data.batches import Batches
from train.data.corpus import Corpus
from train.data.streamed_batches import StreamedBatches
from train.distributed.parallel import full_model
from train.distributed.ranks import Ranks
from train.run.folder import RunFolder


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
    skipped_in_a_row: int = 0  # consecutive steps up to this one whose loss was not finite

    def save(self) -> None:
        """Write the state, then the checkpoint. All ranks must call this. Raises RunError, as `States.save` does."""
        self.folder.states.save(
            self.model,
            self.optimizers,
            self.ranks,
            step=self.step,
            data=self.corpus.fingerprint(),
            keep_last=self.recipe.run.keep_last,
            save_data=self.batches.save,
        )
        self.save_model(self.folder.checkpoint)

    def save_model(self, folder: Path) -> None:
        """Write the model as a checkpoint folder. All ranks must call this."""
        model = full_model(self.model, self.ranks)
        if model is not None:
            self.folder.save_model(model, folder)
        self.ranks.barrier()
