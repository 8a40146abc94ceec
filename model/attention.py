"""Attention: the KV cache, norms of queries and keys, and which keys a query sees.

Shapes in comments use batch, sequence (new tokens), total (cached and new tokens), heads, kv_heads and head_dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.linear import Linear
from model.norm import RMSNorm
from model.rotary import RotaryPositionalEmbedding


class KVCache:
    """Keys and values of the tokens seen so far, one buffer a layer, allocated once.

    Buffers are [batch, kv_heads, max_length, head_dim]; `length` counts the tokens that they hold.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        max_length: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (config.num_hidden_layers, batch_size, config.num_key_value_heads, max_length, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.max_length = max_length
        self.length = 0

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write one layer's new rows after `length`; return all its rows [batch, kv_heads, total, head_dim].

        `length` itself moves when the whole model has run (`TransformerModel.forward`), since every layer starts
        from the same one.
        """
        end = self.length + key.shape[2]
        self.keys[layer, :, :, self.length : end] = key
        self.values[layer, :, :, self.length : end] = value
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class Attention(nn.Module):
    """Causal grouped-query attention (arXiv:2305.13245); with as many KV heads as heads it is multi-head attention."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        query_size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        self.has_rope = config.has_rope(layer)
        self.window = config.window(layer)
        self.q_proj = Linear(config.hidden_size, query_size, bias=config.has_qkv_bias)
        self.k_proj = Linear(config.hidden_size, kv_size, bias=config.has_qkv_bias)
        self.v_proj = Linear(config.hidden_size, kv_size, bias=config.has_qkv_bias)
        self.o_proj = Linear(query_size, config.hidden_size, bias=config.attention_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.has_qk_norm = config.qk_norm

    def forward(
        self,
        x: Tensor,
        position_ids: Tensor,
        rotary: RotaryPositionalEmbedding,
        kv_cache: KVCache | None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """[batch, sequence, hidden_size] -> the same shape."""
        heads = (*x.shape[:2], -1, self.head_dim)
        query, key, value = self.q_proj(x).view(heads), self.k_proj(x).view(heads), self.v_proj(x).view(heads)
        if self.has_qk_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        if self.has_rope:
            query, key = rotary(query, key, position_ids)
        query = query.transpose(1, 2)  # [batch, heads, sequence, head_dim]
        key, value = key.transpose(1, 2), value.transpose(1, 2)  # [batch, kv_heads, sequence, head_dim]
        if kv_cache is not None:
            key, value = kv_cache.append(self.layer, key, value)
        attended = causal_attention(query, key, value, mask, self.window)
        return self.o_proj(attended.transpose(1, 2).flatten(2))


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, window: int | None = None
) -> Tensor:
    """softmax(Q K^T / sqrt(head_dim)) V, where the queries are the last tokens of the keys' sequence.

    query [batch, heads, sequence, head_dim]; key and value [batch, kv_heads, total, head_dim], total >= sequence.
    Query i stands at position total - sequence + i and sees no later key; or a mask, bool [batch, 1, sequence, total],
    says which keys it sees. With a window it sees the last `window` of them alone, its own included.
    """
    sequence, total = query.shape[2], key.shape[2]
    has_window = window is not None and window < total
    if mask is None and (has_window or 1 < sequence < total):
        # A chunk after cached tokens: torch's is_causal would align it to the first key.
        mask = torch.ones(sequence, total, dtype=torch.bool, device=query.device).tril(total - sequence)
    if has_window:
        mask = mask & torch.ones(sequence, total, dtype=torch.bool, device=query.device).triu(
            total - sequence - window + 1
        )
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None and sequence > 1,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def document_mask(document_ids: Tensor) -> Tensor:
    """Which keys a query sees where none may look into another document: bool [batch, 1, sequence, sequence]."""
    same = document_ids.unsqueeze(-1) == document_ids.unsqueeze(-2)
    return same.tril().unsqueeze(1)


def positions_in_documents(document_ids: Tensor) -> Tensor:
    """Each token's place in its document, from 0, where a row holds one after another; int64 [batch, sequence]."""
    places = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    begins = torch.ones_like(document_ids, dtype=torch.bool)
    begins[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return places - places.where(begins, 0).cummax(1).values
