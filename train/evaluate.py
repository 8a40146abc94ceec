"""Judging a model: its loss on held-out documents, and what it writes by itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from model import TransformerModel
from train.batches import IGNORED, pad_rows
from train.corpus import Corpus
from train.data_config import DOCUMENT
from train.rows import Rows

ROWS_AT_ONCE = 16
SAMPLE_TOKENS = 160
SAMPLE_TEMPERATURE = 0.6


@torch.inference_mode()
def held_out_loss(model: TransformerModel, corpus: Corpus, context: int) -> float:
    """The mean loss over all tokens of the held-out documents, in nats a token.

    Each document begins a row of its own, so that none lacks what it says earlier; one longer than the context is cut.
    This is the loss that `Corpus.true_loss` bounds from below.
    """
    rows = sorted(Rows(corpus.held_out, context, DOCUMENT), key=lambda row: row.end - row.begin)  # little is padded
    total = 0.0
    for first in range(0, len(rows), ROWS_AT_ONCE):
        input_ids, labels, _ = pad_rows(rows[first : first + ROWS_AT_ONCE])
        logits = model(input_ids.to(model.device)).flatten(0, 1).float()
        wanted = labels.flatten().to(model.device)
        total += F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum").item()
    return total / sum(stream.learnable for stream in corpus.held_out)


def sample_text(model: TransformerModel, tokenizer: Tokenizer, seed: int) -> str:
    """A text that the model writes from nothing; the same for the same weights and seed."""
    token_ids = model.generate(
        torch.tensor([model.config.bos_token_id]),
        max_new_tokens=SAMPLE_TOKENS,
        temperature=SAMPLE_TEMPERATURE,
        stop_token_ids=model.config.eos_token_ids,
        generator=torch.Generator(model.device).manual_seed(seed),
    )
    return tokenizer.decode(token_ids)
