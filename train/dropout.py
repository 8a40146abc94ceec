"""Dropout (Srivastava et al. 2014, jmlr.org/papers/v15/srivastava14a.html) as hooks on the model's modules.

The model itself has none, because only training needs it. Embeddings, and what attention and MLP add to the residual
stream, are dropped, as in GPT-2; attention's weights are not. It acts where gradients are computed: evaluations and
samples see the whole model. The random state is a function of seed, step and rank, so a resumed run drops the same.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import TransformerModel


def add_dropout(model: TransformerModel, share: float) -> None:
    """Let `share` of the numbers be zero, and the others larger, while gradients are computed."""
    if not share:
        return
    blocks = model.model.layers
    for module in (model.model.embed_tokens, *(part for block in blocks for part in (block.self_attn, block.mlp))):
        module.register_forward_hook(partial(_drop, share))


def seed_dropout(seed: int, step: int, rank: int) -> None:
    """Set the random state from which a step's dropout is drawn."""
    torch.manual_seed(hash((seed, step, rank)) % 2**63)


def _drop(share: float, _module: nn.Module, _inputs: tuple[object, ...], output: Tensor) -> Tensor:
    return F.dropout(output, share) if torch.is_grad_enabled() else output
