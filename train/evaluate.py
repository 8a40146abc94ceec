"""Judging a model: its loss on held-out documents, and what it writes by itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from model import TransformerModel
from train.batches import IGNORED, pack_rows
from train.tokenizer import END_OF_TEXT

ROWS_AT_ONCE = 16
SAMPLE_TOKENS = 160
SAMPLE_TEMPERATURE = 0.8


@torch.inference_mode()
def held_out_loss(model: TransformerModel, documents: list[Tensor], context: int) -> float:
    """The mean loss over all tokens of the documents, in nats a token.

    Each document begins a row of its own, so that none lacks what it says earlier; one longer than the context is cut.
    This is the loss that `Corpus.true_loss` bounds from below.
    """
    input_ids, labels = pack_rows(sorted(documents, key=len), context)
    total = 0.0
    for ids, wanted in zip(input_ids.split(ROWS_AT_ONCE), labels.split(ROWS_AT_ONCE), strict=True):
        length = int((wanted != IGNORED).sum(1).max())  # what is padding in every row need not be computed
        logits = model(ids[:, :length].to(model.device))
        loss = F.cross_entropy(
            logits.flatten(0, 1).float(), wanted[:, :length].flatten().to(model.device), reduction="sum"
        )
        total += loss.item()
    return total / int((labels != IGNORED).sum())


def sample_text(model: TransformerModel, tokenizer: Tokenizer, seed: int) -> str:
    """A text that the model writes from nothing; the same for the same weights and seed."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    token_ids = model.generate(
        torch.tensor([end]),
        max_new_tokens=SAMPLE_TOKENS,
        temperature=SAMPLE_TEMPERATURE,
        stop_token_ids=[end],
        generator=torch.Generator(model.device).manual_seed(seed),
    )
    return tokenizer.decode(token_ids)
