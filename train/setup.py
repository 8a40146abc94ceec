"""Start a run: everything it needs is built and checked before its first step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tokenizers import Tokenizer

from model import ModelConfig, TransformerModel, load_checkpoint, open_checkpoint
from model.checkpoint import TOKENIZER_FILES
from model.hub import resolve_checkpoint
from model.sources import tokenizer_folder
from runtime.hub import HUB_ID
from train.config import ModelSection, Recipe
from train.data.batches import Batches
from train.data.chat import end_of_turn
from train.data.config import END_OF_TEXT
from train.data.corpus import Corpus, build_corpus, tokenizer_texts
from train.data.shards import TokenFolder
from train.data.streamed_batches import StreamedBatches
from train.data.tokenizer import CorpusTokenizer, train_tokenizer
from train.distillation import DistillationLoss
from train.distributed.parallel import parallelize
from train.distributed.ranks import Ranks, join_ranks
from train.dropout import add_dropout
from train.errors import RecipeError, require
from train.lora import add_adapters
from train.loss import ModelLoss, NextTokenLoss
from train.optimizer import build_optimizers
from train.precision import LossScale, choose_precision
from train.preference import PreferenceLoss
from train.run.folder import RunFolder
from train.run.record import run_record
from train.run.run import Run
from train.run.trackers import check_trackers
from train.samples import sample_prompts


def start_run(recipe: Recipe, folder: RunFolder, *, overwrite: bool = False) -> Run:
    """A run at step 0. Its folder is claimed first, and filled after all checks have passed."""
    ranks = join_ranks(recipe.machine)
    ranks.on_rank0(lambda: folder.claim_new(overwrite=overwrite))
    with released_on_failure(folder):
        tokenizer = make_tokenizer(recipe)
        run = assemble(recipe, folder, ranks, tokenizer)
        if ranks.is_first:
            fill_folder(run, tokenizer, run_record(run))
        ranks.barrier()
    return run


def fill_folder(run: Run, tokenizer: CorpusTokenizer, record: dict[str, Any]) -> None:
    """Write what a run folder has before the first step."""
    context = run.model.config.max_position_embeddings
    with_chat = run.corpus.has_conversations or run.recipe.tokenizer.chat_template is not None
    run.folder.create(record, tokenizer, run.corpus, max_length=context, with_chat=with_chat)


@contextmanager
def released_on_failure(folder: RunFolder) -> Iterator[None]:
    """Give up this process's claim on a run folder where the run cannot be built."""
    try:
        yield
    except BaseException:
        folder.release()
        raise


def make_tokenizer(recipe: Recipe) -> CorpusTokenizer:
    """The tokenizer of a recipe: the one it names, that of its checkpoint or of its token folder, or a new one."""
    section, checkpoint, tokens = recipe.tokenizer, recipe.model.init_from, recipe.data.tokens
    if section.path is not None:
        is_hub_id = HUB_ID.fullmatch(section.path) and not section.path.endswith(".json")
        path = resolve_checkpoint(section.path, files=TOKENIZER_FILES) if is_hub_id else section.path
        return CorpusTokenizer.load(path, section)
    if checkpoint is not None:
        return CorpusTokenizer.load(tokenizer_folder(open_checkpoint(checkpoint)), section)
    if tokens is not None and TokenFolder(tokens).has_tokenizer:
        return CorpusTokenizer.load(TokenFolder(tokens).tokenizer, section)
    require(section.separator in (None, END_OF_TEXT), f"tokenizer.separator: a tokenizer made here has {END_OF_TEXT}")
    return CorpusTokenizer(train_tokenizer(tokenizer_texts(recipe.data, recipe.run.seed), section.vocab_size))


def make_corpus(recipe: Recipe, tokenizer: CorpusTokenizer, ranks: Ranks) -> Corpus:
    """The tokens of a recipe: in memory, or from a folder of shards, which is completed first if necessary."""
    data, seed = recipe.data, recipe.run.seed
    if data.tokens is None:
        return build_corpus(data, tokenizer, seed)
    folder = TokenFolder(data.tokens)
    if ranks.is_first and not folder.is_complete:
        folder.make(data, tokenizer, seed)
    ranks.barrier()
    return folder.corpus(data, tokenizer, seed)


def assemble(recipe: Recipe, folder: RunFolder, ranks: Ranks, tokenizer: CorpusTokenizer) -> Run:
    """A run of a recipe at step 0, in memory. Writes nothing."""
    check_trackers(recipe.run)
    torch.manual_seed(recipe.run.seed)
    model = _model(recipe.model, tokenizer)
    context = recipe.data.context
    if context > model.config.max_position_embeddings:
        raise RecipeError(
            f"data.context {context} exceeds the model's {model.config.max_position_embeddings} positions"
        )
    corpus = make_corpus(recipe, tokenizer, ranks)
    for source in corpus.sources:
        if source.skipped.count:
            ranks.print_rank0(f"warning: {source.name}: {source.skipped}")
    model.config = _with_special_tokens(model.config, tokenizer, corpus)
    if recipe.lora is not None:
        add_adapters(model, recipe.lora)
    add_dropout(model, recipe.model.dropout)
    batches = _batches(recipe, corpus, tokenizer, ranks)
    machine = recipe.machine
    loss = _loss(recipe, model, tokenizer)
    parallel_loss = parallelize(loss, machine, ranks)
    optimizers = build_optimizers(model, recipe.optimizer)
    prompts = sample_prompts(
        recipe.run.sample_prompts,
        tokenizer,
        corpus,
        begin=tokenizer.separator_id if model.config.bos_token_id is None else model.config.bos_token_id,
        context=model.config.max_position_embeddings,
    )
    run = Run(recipe, folder, ranks, model, parallel_loss, optimizers, tokenizer.tokenizer, corpus, batches, prompts)
    if choose_precision(machine.precision, ranks.device) == "fp16":
        run.loss_scale = LossScale()
    return run


def _loss(recipe: Recipe, model: TransformerModel, tokenizer: CorpusTokenizer) -> ModelLoss:
    """What the recipe minimizes. Raises RecipeError where a teacher has another tokenizer."""
    chunk_tokens, preference, distillation = recipe.machine.loss_chunk_tokens, recipe.preference, recipe.distillation
    if preference is not None:
        reference = load_checkpoint(str(preference.reference or recipe.model.init_from))
        return PreferenceLoss(model, reference, beta=preference.beta, chunk_tokens=chunk_tokens)
    if distillation is not None:
        theirs = CorpusTokenizer.load(tokenizer_folder(open_checkpoint(distillation.teacher))).tokenizer
        same = theirs.get_vocab() == tokenizer.tokenizer.get_vocab()
        require(same, f"distillation.teacher {distillation.teacher} has another tokenizer than the model")
        teacher = load_checkpoint(distillation.teacher)
        positions = teacher.config.max_position_embeddings
        require(positions >= recipe.data.context, f"data.context exceeds the teacher's {positions} positions")
        return DistillationLoss(
            model,
            teacher,
            weight=distillation.weight,
            temperature=distillation.temperature,
            chunk_tokens=chunk_tokens,
        )
    return NextTokenLoss(model, z_loss=recipe.optimizer.z_loss, chunk_tokens=chunk_tokens)


def _batches(recipe: Recipe, corpus: Corpus, tokenizer: CorpusTokenizer, ranks: Ranks) -> Batches | StreamedBatches:
    """The batches of this rank."""
    options = {"seed": recipe.run.seed, "rank": ranks.rank, "world_size": ranks.world_size}
    if corpus.has_streams:
        require(not recipe.schedule.epochs, "a stream has no known length: give schedule.steps, tokens or hours")
        return StreamedBatches(corpus.sources, recipe.data, tokenizer, **options)
    return Batches(corpus.sources, recipe.data, **options)


def _model(section: ModelSection, tokenizer: CorpusTokenizer) -> TransformerModel:
    """The model of a recipe, in training mode. Raises RecipeError where it has fewer tokens than the tokenizer."""
    if section.init_from is not None:
        model = load_checkpoint(section.init_from)
        _check_vocabulary(model.config, tokenizer.tokenizer)
        return model.train()
    config = ModelConfig.from_preset(str(section.preset))
    try:
        config = config.replace(**section.overrides)
    except TypeError as error:
        raise RecipeError(f"model.overrides: {str(error).partition('() ')[2]}") from None
    _check_vocabulary(config, tokenizer.tokenizer)
    return TransformerModel(config.replace(bos_token_id=None, eos_token_id=None, pad_token_id=None))


def _with_special_tokens(config: ModelConfig, tokenizer: CorpusTokenizer, corpus: Corpus) -> ModelConfig:
    """The config with the separator, and the token that ends an assistant's turn, among its eos tokens.

    The separator is the bos token too, unless the checkpoint names another.
    """
    ends = [*config.eos_token_ids, tokenizer.separator_id]
    if corpus.has_conversations and tokenizer.chat_template is not None:
        turn = end_of_turn(tokenizer.tokenizer, tokenizer.chat_template)
        ends += [] if turn is None else [turn]
    ends = list(dict.fromkeys(ends))
    begin = tokenizer.separator_id if config.bos_token_id is None else config.bos_token_id
    return config.replace(bos_token_id=begin, eos_token_id=tuple(ends) if len(ends) > 1 else ends[0])


def _check_vocabulary(config: ModelConfig, tokenizer: Tokenizer) -> None:
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise RecipeError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens, the model's vocabulary only {config.vocab_size}; "
            "set model.overrides.vocab_size, or take a smaller tokenizer"
        )
