"""Evaluation of a model: its loss on held-out documents, and a sample of its text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional

from model import TransformerModel
from train.data.batches import pad_pairs, pad_rows
from train.data.config import DOCUMENT
from train.data.corpus import Corpus
from train.data.rows import PairDataset, RowDataset
from train.distributed.parallel import reshard
from train.distributed.ranks import Ranks

ROWS_AT_ONCE = 16
SAMPLE_TOKENS = 160
SAMPLE_TEMPERATURE = 0.6


@torch.no_grad()
def held_out_loss(
    loss: nn.Module, corpus: Corpus, context: int, ranks: Ranks, *, check: Callable[[], None] = lambda: None
) -> float:
    """The mean loss over all tokens of the held-out documents, in nats per token. All ranks must call this.

    Each document begins a row of its own, so that its tokens see all that precedes them; a document longer than the
    context is cut. `Corpus.true_loss` is a lower bound of this loss. `check` is called between batches, and may raise.
    """
    # Sorted by length, so that little is padded.
    rows = sorted(RowDataset(corpus.held_out, context, DOCUMENT), key=lambda row: row.end - row.begin)
    batches = [rows[first : first + ROWS_AT_ONCE] for first in range(0, len(rows), ROWS_AT_ONCE)]
    total = 0.0
    # Every rank makes the same number of passes, because each pass gathers sharded weights from all.
    for number in range(math.ceil(len(batches) / ranks.world_size)):
        check()
        mine = number * ranks.world_size + ranks.rank
        input_ids, labels, _ = pad_rows(batches[min(mine, len(batches) - 1)])
        _, cross_entropy = loss(input_ids.to(ranks.device), labels.to(ranks.device))
        if mine < len(batches):
            total += cross_entropy.item()
    reshard(loss)
    return ranks.all_reduce_sum(total)[0] / corpus.held_out_tokens


@torch.no_grad()
def held_out_preferences(
    loss: nn.Module, corpus: Corpus, context: int, ranks: Ranks, *, check: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """The mean loss over the held-out pairs of answers, and how the model has learned to tell them. All ranks call it.

    `check` is called before each pair, and may raise.

    Returns:
        `held_out_loss`; `margin`, the mean of beta times the margins (`PreferenceLoss.margins`), in nats; and
        `preference_accuracy`, the share of pairs whose margin is positive.
    """
    module = getattr(loss, "module", loss)  # of DDP
    pairs = PairDataset(corpus.held_out, context)
    sums = torch.zeros(4, dtype=torch.float64)
    # Every rank calls `check` as often, because that waits for all.
    for first in range(0, len(pairs), ranks.world_size):
        check()
        number = first + ranks.rank
        if number >= len(pairs):
            continue
        input_ids, labels, _ = pad_pairs([pairs[number]])
        [margin] = module.beta * module.margins(input_ids.to(ranks.device), labels.to(ranks.device)).double().cpu()
        sums += torch.stack([-functional.logsigmoid(margin), margin, (margin > 0).double(), torch.ones_like(margin)])
    total, margins, right, count = ranks.all_reduce_sum(*sums.tolist())
    return {"held_out_loss": total / count, "margin": margins / count, "preference_accuracy": right / count}


def bits_per_byte(loss: float, corpus: Corpus, held_out_bytes: int) -> float:
    """A held-out loss in bits per byte of text, which is comparable between tokenizers."""
    return loss * corpus.held_out_tokens / math.log(2) / held_out_bytes


def count_bytes(corpus: Corpus, tokenizer: Tokenizer) -> int:
    """The UTF-8 bytes of the text that the held-out loss predicts.

    These are the held-out documents without their separators, and of conversations and completions what is learned,
    without the tokens that end turns.
    """
    total = 0
    for stream in corpus.held_out:
        texts = tokenizer.decode_batch(list(stream.learned_texts()), skip_special_tokens=stream.learned is not None)
        total += sum(len(text.encode()) for text in texts)
    return total


def sample_text(
    model: TransformerModel,
    tokenizer: Tokenizer,
    seed: int,
    *,
    prompt_ids: Sequence[int] = (),
    max_new_tokens: int = SAMPLE_TOKENS,
    sliding_window: bool = False,
) -> str:
    """A generated text after its prompt; the same for the same weights and seed.

    Args:
        model: generates.
        tokenizer: of the model.
        seed: of the tokens that are drawn.
        prompt_ids: none for the begin token alone, which is not shown.
        max_new_tokens: at most.
        sliding_window: go on past the context, approximately (`TransformerModel.generate`).
    """
    begin = [model.config.bos_token_id]
    with torch.compiler.set_stance("force_eager"):  # compiled, every new length would compile again
        token_ids = model.generate(
            torch.tensor(prompt_ids or begin),
            max_new_tokens=max_new_tokens,
            sliding_window=sliding_window,
            temperature=SAMPLE_TEMPERATURE,
            stop_token_ids=model.config.eos_token_ids,
            generator=torch.Generator(model.device).manual_seed(seed),
        )
    if list(prompt_ids or begin) == begin:
        return tokenizer.decode(token_ids)
    return tokenizer.decode([*prompt_ids, *token_ids], skip_special_tokens=False)
