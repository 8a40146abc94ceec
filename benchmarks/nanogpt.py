"""nanoGPT's model and step, written after its model.py and train.py (github.com/karpathy/nanoGPT), for comparison.

GPT-2 without biases and dropout: LayerNorm, learned positions, queries, keys and values in one product, GELU, a tied
head. Its MLP is 4 x hidden_size wide; a gated one of 8/3 x hidden_size has as many weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import ModelConfig


class Block(nn.Module):
    """Attention and MLP after norms, each added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, self.heads = config.hidden_size, config.num_attention_heads
        self.ln_1, self.ln_2 = nn.LayerNorm(size, bias=False), nn.LayerNorm(size, bias=False)
        self.c_attn, self.attn_proj = nn.Linear(size, 3 * size, bias=False), nn.Linear(size, size, bias=False)
        self.c_fc, self.mlp_proj = nn.Linear(size, 4 * size, bias=False), nn.Linear(4 * size, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, sequence, hidden_size] -> the same shape."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.c_attn(self.ln_1(x)).chunk(3, -1)
        )
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attn_proj(attended.transpose(1, 2).flatten(2))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x))))


class GPT(nn.Module):
    """The model with its loss."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.wpe = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.num_hidden_layers)))
        self.ln_f = nn.LayerNorm(config.hidden_size, bias=False)
        for matrix in (parameter for parameter in self.parameters() if parameter.ndim == 2):
            nn.init.normal_(matrix, std=0.02)

    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        """The mean cross-entropy of labels, int64 [batch, sequence] as the input ids are."""
        x = self.wte(input_ids) + self.wpe(torch.arange(input_ids.shape[1]))
        logits = self.ln_f(self.blocks(x)) @ self.wte.weight.T
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def nanogpt(config: ModelConfig, stream: Tensor, rows: int, context: int) -> Callable[[int], None]:
    """Its loop on a CPU. On it AdamW is not fused, as train.py has it."""
    model, ids = GPT(config), stream.numpy().astype(np.uint16)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))

    def steps(count: int) -> None:
        for _ in range(count):
            places = torch.randint(len(ids) - context - 1, (rows,)).tolist()
            windows = [torch.from_numpy(ids[place : place + context + 1].astype(np.int64)) for place in places]
            batch = torch.stack(windows)
            loss = model(batch[:, :-1], batch[:, 1:])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()

    return steps
