"""Everything a run needs, built and checked before its first step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.optim import Optimizer

from model import ModelConfig, TransformerModel, load_checkpoint
from train.batches import Batches, document_spans, packed_spans
from train.config import ModelSection, Recipe, TokenizerSection
from train.corpus import Corpus, Texts, encode_texts, read_texts
from train.errors import DataError, RecipeError
from train.loss import NextTokenLoss
from train.metrics import summary_writer_class
from train.optimizer import build_optimizers
from train.placement import place, whole_model
from train.ranks import Ranks, join_ranks
from train.record import run_record, session_record
from train.run_folder import RunFolder
from train.tokenizer import END_OF_TEXT, load_tokenizer, train_tokenizer

# A tokenizer learns no more from further documents than from so many.
TOKENIZER_DOCUMENTS = 10_000


@dataclass
class Run:
    """A run at one of its steps, as one of its ranks sees it."""

    recipe: Recipe
    folder: RunFolder
    ranks: Ranks
    model: TransformerModel
    loss: nn.Module  # a NextTokenLoss over the model, as it lies on the devices
    optimizers: tuple[Optimizer, ...]
    tokenizer: Tokenizer
    corpus: Corpus
    batches: Batches
    step: int = 0  # updates done
    skipped_in_a_row: int = 0  # steps just now whose loss was no number

    def save(self) -> None:
        """Write the state, then the checkpoint. All ranks must call this. Raises RunError, as `States.save` does."""
        self.folder.states.save(
            self.model,
            self.optimizers,
            self.ranks,
            step=self.step,
            data=self.corpus.fingerprint(),
            keep_last=self.recipe.run.keep_last,
        )
        self.save_model(self.folder.checkpoint)

    def save_model(self, folder: Path) -> None:
        """Write the model alone as a checkpoint folder. All ranks must call this."""
        model = whole_model(self.model, self.ranks)
        if model is not None:
            self.folder.save_model(model, folder)
        self.ranks.wait()


def start_run(recipe: Recipe, folder: RunFolder, *, overwrite: bool = False) -> Run:
    """A run at step 0; its folder is made once everything was found in order."""
    ranks = join_ranks(recipe.machine)
    if ranks.is_first:
        folder.check_free(overwrite=overwrite)
    texts = read_texts(recipe.data, recipe.run.seed)
    tokenizer = _tokenizer(recipe.tokenizer, texts)
    run = _assemble(recipe, folder, ranks, texts, tokenizer)
    if ranks.is_first:
        context = run.model.config.max_position_embeddings
        folder.create(run_record(run), tokenizer, texts.held_out, max_length=context)
    ranks.wait()
    return run


def resume_run(folder: RunFolder, overrides: Iterable[str] = ()) -> Run:
    """The run of a folder at the step of its last whole state.

    `overrides`, such as `machine.threads=8`, change how the machine is used. The checkpoint is written anew, so that it
    is of the step that the run goes on from.
    """
    recipe = folder.recipe().on_another_machine(overrides)
    ranks = join_ranks(recipe.machine)
    run = _assemble(recipe, folder, ranks, read_texts(recipe.data, recipe.run.seed), folder.tokenizer())
    run.step = folder.states.load(run.model, run.optimizers, ranks, data=run.corpus.fingerprint())
    if ranks.is_first:
        folder.clean()
        folder.add_session(session_record(run))
    run.save_model(folder.checkpoint)
    return run


def _tokenizer(section: TokenizerSection, texts: Texts) -> Tokenizer:
    if section.path is not None:
        return load_tokenizer(section.path)
    return train_tokenizer(texts.train[:TOKENIZER_DOCUMENTS], section.vocab_size)


def _assemble(recipe: Recipe, folder: RunFolder, ranks: Ranks, texts: Texts, tokenizer: Tokenizer) -> Run:
    if recipe.run.tensorboard:
        summary_writer_class()
    torch.manual_seed(recipe.run.seed)
    model = _model(recipe.model, tokenizer)
    context = recipe.data.context
    if context > model.config.max_position_embeddings:
        raise RecipeError(
            f"data.context {context} exceeds the model's {model.config.max_position_embeddings} positions"
        )
    corpus = encode_texts(texts, tokenizer)
    if len(corpus.train) <= context:
        raise DataError(f"the data hold {len(corpus.train)} tokens to train on, less than one row of {context}")
    batches = _batches(recipe, corpus, ranks)
    machine = recipe.machine
    loss = NextTokenLoss(model, z_loss=recipe.optimizer.z_loss, chunk_tokens=machine.loss_chunk_tokens)
    placed = place(loss, machine, ranks)
    optimizers = build_optimizers(model, recipe.optimizer)
    return Run(recipe, folder, ranks, model, placed, optimizers, tokenizer, corpus, batches)


def _batches(recipe: Recipe, corpus: Corpus, ranks: Ranks) -> Batches:
    data, stream = recipe.data, corpus.train
    if data.separate_documents:
        spans = document_spans(stream, data.context, corpus.separator)
    else:
        spans = packed_spans(stream, data.context)
    return Batches(
        stream,
        spans,
        batch_size=data.batch_size,
        seed=recipe.run.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )


def _model(section: ModelSection, tokenizer: Tokenizer) -> TransformerModel:
    """The model of a recipe, in training mode, its vocabulary checked against the tokenizer's."""
    if section.init_from is not None:
        model = load_checkpoint(section.init_from)
        _check_vocabulary(model.config, tokenizer)
        return model.train()
    config = ModelConfig.from_preset(str(section.preset))
    try:
        config = config.replace(**section.overrides)
    except TypeError as error:
        raise RecipeError(f"model.overrides: {str(error).partition('() ')[2]}") from None
    _check_vocabulary(config, tokenizer)
    end = tokenizer.token_to_id(END_OF_TEXT)
    return TransformerModel(config.replace(bos_token_id=end, eos_token_id=end))


def _check_vocabulary(config: ModelConfig, tokenizer: Tokenizer) -> None:
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise RecipeError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens, the model's vocabulary only {config.vocab_size}; "
            "set model.overrides.vocab_size, or take a smaller tokenizer"
        )
