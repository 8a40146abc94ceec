"""Everything a run needs, built and checked before its first step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch.optim import Optimizer

from model import ModelConfig, TransformerModel, load_checkpoint
from train.batches import Batches, document_spans, packed_spans
from train.config import ModelSection, Recipe, TokenizerSection
from train.corpus import Corpus, Texts, encode_texts, read_texts
from train.errors import DataError, RecipeError
from train.optimizer import build_optimizer
from train.run_folder import RunFolder
from train.tokenizer import END_OF_TEXT, load_tokenizer, train_tokenizer

# A tokenizer learns no more from further documents than from so many.
TOKENIZER_DOCUMENTS = 10_000


@dataclass
class Run:
    """A run at one of its steps."""

    recipe: Recipe
    folder: RunFolder
    model: TransformerModel
    optimizer: Optimizer
    tokenizer: Tokenizer
    corpus: Corpus
    batches: Batches
    step: int = 0  # updates done

    def save(self) -> None:
        """Write checkpoint and state."""
        self.folder.save(self.model, self.optimizer, step=self.step, data=self.corpus.fingerprint())


def start_run(recipe: Recipe, folder: RunFolder, *, overwrite: bool = False) -> Run:
    """A run at step 0; its folder is made once everything was found in order."""
    folder.check_free(overwrite=overwrite)
    texts = read_texts(recipe.data, recipe.run.seed)
    tokenizer = _tokenizer(recipe.tokenizer, texts)
    run = _assemble(recipe, folder, texts, tokenizer)
    folder.create(recipe, tokenizer, texts.held_out, max_length=run.model.config.max_position_embeddings)
    return run


def resume_run(folder: RunFolder) -> Run:
    """The run of a folder at the step of its last save."""
    recipe = folder.recipe()
    run = _assemble(recipe, folder, read_texts(recipe.data, recipe.run.seed), folder.tokenizer())
    run.step = folder.load_state(run.model, run.optimizer, data=run.corpus.fingerprint())
    return run


def _tokenizer(section: TokenizerSection, texts: Texts) -> Tokenizer:
    if section.path is not None:
        return load_tokenizer(section.path)
    return train_tokenizer(texts.train[:TOKENIZER_DOCUMENTS], section.vocab_size)


def _assemble(recipe: Recipe, folder: RunFolder, texts: Texts, tokenizer: Tokenizer) -> Run:
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
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
    return Run(
        recipe, folder, model, build_optimizer(model, recipe.optimizer), tokenizer, corpus, _batches(recipe, corpus)
    )


def _batches(recipe: Recipe, corpus: Corpus) -> Batches:
    data, stream = recipe.data, corpus.train
    if data.separate_documents:
        spans = document_spans(stream, data.context, corpus.separator)
    else:
        spans = packed_spans(stream, data.context)
    return Batches(stream, spans, batch_size=data.batch_size, seed=recipe.run.seed)


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
