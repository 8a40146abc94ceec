"""Judging a model: its loss on held-out documents, and what it writes by itself."""

from __future__ import annotations

import math

import torch
from tokenizers import Tokenizer
from torch import nn

from model import TransformerModel
from train.data.batches import pad_rows
from train.data.config import DOCUMENT
from train.data.corpus import Corpus
from train.data.rows import Rows
from train.distributed.parallel import split_again
from train.distributed.ranks import Ranks

ROWS_AT_ONCE = 16
SAMPLE_TOKENS = 160
SAMPLE_TEMPERATURE = 0.6


@torch.no_grad()
def held_out_loss(loss: nn.Module, corpus: Corpus, context: int, ranks: Ranks) -> float:
    """The mean loss over all tokens of the held-out documents, in nats a token. All ranks must call this.

    Each document begins a row of its own, so that none lacks what it says earlier; one longer than the context is cut.
    This is the loss that `Corpus.true_loss` bounds from below.
    """
    rows = sorted(Rows(corpus.held_out, context, DOCUMENT), key=lambda row: row.end - row.begin)  # little is padded
    batches = [rows[first : first + ROWS_AT_ONCE] for first in range(0, len(rows), ROWS_AT_ONCE)]
    total = 0.0
    # Every rank makes as many passes as every other, for split weights are gathered in each.
    for number in range(math.ceil(len(batches) / ranks.world_size)):
        mine = number * ranks.world_size + ranks.rank
        input_ids, labels, _ = pad_rows(batches[min(mine, len(batches) - 1)])
        _, cross_entropy = loss(input_ids.to(ranks.device), labels.to(ranks.device))
        if mine < len(batches):
            total += cross_entropy.item()
    split_again(loss)
    return ranks.sum(total)[0] / corpus.held_out_tokens


def bits_per_byte(loss: float, corpus: Corpus, held_out_bytes: int) -> float:
    """A held-out loss in bits a byte of text, which compares models of different tokenizers."""
    return loss * corpus.held_out_tokens / math.log(2) / held_out_bytes


def count_bytes(corpus: Corpus, tokenizer: Tokenizer) -> int:
    """How many bytes of UTF-8 the held-out documents have; what separates them does not count."""
    return sum(len(text.encode()) for text in corpus.held_out_texts(tokenizer))


def sample_text(model: TransformerModel, tokenizer: Tokenizer, seed: int) -> str:
    """A text that the model writes from nothing; the same for the same weights and seed."""
    with torch.compiler.set_stance("force_eager"):  # every length would be compiled anew
        token_ids = model.generate(
            torch.tensor([model.config.bos_token_id]),
            max_new_tokens=SAMPLE_TOKENS,
            temperature=SAMPLE_TEMPERATURE,
            stop_token_ids=model.config.eos_token_ids,
            generator=torch.Generator(model.device).manual_seed(seed),
        )
    return tokenizer.decode(token_ids)
