"""Judging a model: its loss on held-out documents, and what it writes by itself."""

from __future__ import annotations

import math

import torch
from tokenizers import Tokenizer
from torch import nn

from model import TransformerModel
from train.batches import document_spans, pad_rows
from train.corpus import Corpus
from train.placement import split_again
from train.ranks import Ranks
from train.tokenizer import END_OF_TEXT

ROWS_AT_ONCE = 16
SAMPLE_TOKENS = 160
SAMPLE_TEMPERATURE = 0.6


@torch.no_grad()
def held_out_loss(loss: nn.Module, corpus: Corpus, context: int, ranks: Ranks) -> float:
    """The mean loss over all tokens of the held-out documents, in nats a token. All ranks must call this.

    Each document begins a row of its own, so that none lacks what it says earlier; one longer than the context is cut.
    This is the loss that `Corpus.true_loss` bounds from below.
    """
    spans = document_spans(corpus.held_out, context, corpus.separator)
    spans.sort(key=lambda span: span[1] - span[0])  # rows of like length share a batch: little is padded
    batches = [spans[first : first + ROWS_AT_ONCE] for first in range(0, len(spans), ROWS_AT_ONCE)]
    total = 0.0
    # Every rank makes as many passes as every other, for split weights are gathered in each.
    for number in range(math.ceil(len(batches) / ranks.world_size)):
        mine = number * ranks.world_size + ranks.rank
        input_ids, labels = pad_rows(corpus.held_out, batches[min(mine, len(batches) - 1)])
        _, cross_entropy = loss(input_ids.to(ranks.device), labels.to(ranks.device))
        if mine < len(batches):
            total += cross_entropy.item()
    split_again(loss)
    return ranks.sum(total)[0] / (len(corpus.held_out) - 1)


def bits_per_byte(loss: float, corpus: Corpus, held_out_bytes: int) -> float:
    """A held-out loss in bits a byte of text, which compares models of different tokenizers."""
    return loss * (len(corpus.held_out) - 1) / math.log(2) / held_out_bytes


def count_bytes(corpus: Corpus, tokenizer: Tokenizer) -> int:
    """How many bytes of UTF-8 the held-out documents have; what separates them does not count."""
    documents = [[]]  # type: list[list[int]]
    for token_id in corpus.held_out.tolist():
        if token_id == corpus.separator:
            documents.append([])
        else:
            documents[-1].append(token_id)
    return sum(len(text.encode()) for text in tokenizer.decode_batch(documents, skip_special_tokens=False))


def sample_text(model: TransformerModel, tokenizer: Tokenizer, seed: int) -> str:
    """A text that the model writes from nothing; the same for the same weights and seed."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    with torch.compiler.set_stance("force_eager"):  # every length would be compiled anew
        token_ids = model.generate(
            torch.tensor([end]),
            max_new_tokens=SAMPLE_TOKENS,
            temperature=SAMPLE_TEMPERATURE,
            stop_token_ids=[end],
            generator=torch.Generator(model.device).manual_seed(seed),
        )
    return tokenizer.decode(token_ids)
