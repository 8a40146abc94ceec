"""TransformerModel: a LLaMA-style decoder with a KV cache, written to be read.

Module and parameter names are Hugging Face's, so a state dict is a checkpoint as it stands. Shapes in comments use
batch, sequence (new tokens), total (cached and new tokens), heads, kv_heads and head_dim.

It has no loss, no files and no tokenizer: `train` computes the loss, `checkpoint.py` reads files.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import Attention, KVCache, document_mask, positions_in_documents
from model.config import ModelConfig
from model.linear import Linear
from model.norm import RMSNorm
from model.rotary import RotaryPositionalEmbedding


class MLP(nn.Module):
    """Gated feed-forward layer, `down(silu(gate(x)) * up(x))` (SwiGLU, arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden_size] -> [..., hidden_size]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(
        self,
        x: Tensor,
        position_ids: Tensor,
        rotary: RotaryPositionalEmbedding,
        kv_cache: KVCache | None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """[batch, sequence, hidden_size] -> the same shape."""
        x = x + self.self_attn(self.input_layernorm(x), position_ids, rotary, kv_cache, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class TransformerTrunk(nn.Module):
    """Everything below the head: embeddings, blocks, final norm. Its name in a checkpoint is `model`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = (
            nn.Embedding(config.max_position_embeddings, config.hidden_size)
            if config.learned_position_embeddings
            else None
        )
        self.layers = nn.ModuleList(TransformerBlock(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = RotaryPositionalEmbedding(config)

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, kv_cache: KVCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """input_ids and position_ids int64 [batch, sequence] -> hidden states [batch, sequence, hidden_size]."""
        x = self.embed_tokens(input_ids)
        if self.embed_positions is not None:
            x = x + self.embed_positions(position_ids)
        for block in self.layers:
            x = block(x, position_ids, self.rotary, kv_cache, mask)
        return self.norm(x)


class TransformerModel(nn.Module):
    """A decoder-only language model: the trunk and a head that scores every token of the vocabulary.

    A fresh model draws its matrices from N(0, initializer_range), with the projections that write to the residual
    stream scaled down by sqrt(2 * num_hidden_layers) (GPT-2's rule); norms start at one and biases at zero.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = TransformerTrunk(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        if self.lm_head.weight.device.type != "meta":
            self._initialize()

    @torch.no_grad()
    def _initialize(self) -> None:
        std = self.config.initializer_range
        residual_std = std / (2 * self.config.num_hidden_layers) ** 0.5
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.normal_(0.0, residual_std)
            elif parameter.ndim == 2:
                parameter.normal_(0.0, std)
            elif name.endswith("bias"):
                parameter.zero_()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm_head.weight.device

    def new_cache(self, batch_size: int, max_length: int) -> KVCache:
        """An empty KV cache on the model's device, in its dtype."""
        return KVCache(self.config, batch_size, max_length, device=self.device, dtype=self.lm_head.weight.dtype)

    def forward(
        self,
        input_ids: Tensor,
        *,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        kv_cache: KVCache | None = None,
        num_logits_to_keep: int = 0,
    ) -> Tensor:
        """Logits for the token after each input token.

        Args:
            input_ids: int64 [batch, sequence].
            position_ids: int64 [batch, sequence]; counted on from the cache when not given.
            document_ids: int64 [batch, sequence], for rows of several documents, one after another: a token sees its
                own document alone; positions, when not given, are counted from its beginning. Goes with no cache.
            kv_cache: earlier tokens' keys and values; this call's are appended in place.
            num_logits_to_keep: 0 for all positions, n for the last n alone (1 saves the head's work in a prefill).

        Returns:
            [batch, num_logits_to_keep or sequence, vocab_size], in the dtype of the weights.

        Raises:
            ValueError: the tokens do not fit the context or the cache, or documents come with a cache.
        """
        hidden = self.hidden_states(input_ids, position_ids=position_ids, document_ids=document_ids, kv_cache=kv_cache)
        return self.lm_head(hidden[:, -num_logits_to_keep:])  # -0 keeps all

    def hidden_states(
        self,
        input_ids: Tensor,
        *,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        kv_cache: KVCache | None = None,
    ) -> Tensor:
        """What the head reads: float [batch, sequence, hidden_size]. Arguments and errors are those of `forward`.

        A loss that computes logits a few at a time starts here.
        """
        start = kv_cache.length if kv_cache is not None else 0
        end = start + input_ids.shape[1]
        context = self.config.max_position_embeddings
        room = context if kv_cache is None else min(context, kv_cache.max_length)
        if end > room:
            raise ValueError(f"{end} tokens do not fit: there is room for {room} in a context of {context}")
        if document_ids is not None and kv_cache is not None:
            raise ValueError("a cache holds one document a row: document_ids go with none")
        if position_ids is None and document_ids is not None:
            position_ids = positions_in_documents(document_ids)
        elif position_ids is None:
            position_ids = torch.arange(start, end, device=input_ids.device).expand_as(input_ids)
        mask = None if document_ids is None else document_mask(document_ids)
        hidden = self.model(input_ids, position_ids, kv_cache, mask)
        if kv_cache is not None:
            kv_cache.length = end
        return hidden

    @torch.inference_mode()
    def generate(
        self,
        input_ids: Tensor,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        stop_token_ids: Collection[int] = (),
        generator: torch.Generator | None = None,
        use_cache: bool = True,
        sliding_window: bool = False,
    ) -> list[int]:
        """Continue one prompt. The plain twin of `runtime`, which has every sampler; this one has the two classics.

        Args:
            input_ids: int64 [sequence], at least one token.
            max_new_tokens: the most tokens to add; the context limits them too.
            temperature: 0 takes the likeliest token; above, logits are divided by it and a token is drawn.
            top_k: draw among the k likeliest alone.
            stop_token_ids: stop at any of these, which is not returned.
            generator: the source of randomness.
            sliding_window: go on past the context, approximately: when it is full, its last half runs again as a new
                prompt, and the rest is forgotten.
            use_cache: False computes every step from scratch: slow, and the same tokens (a test holds it to that).

        Returns:
            The new token ids.
        """
        if input_ids.ndim != 1 or not len(input_ids):
            raise ValueError("generate continues one prompt of at least one token: input_ids must be [sequence]")
        context = self.config.max_position_embeddings
        tokens = input_ids.to(self.device).unsqueeze(0)
        new_cache = partial(self.new_cache, 1, min(context, len(input_ids) + max_new_tokens))
        cache = new_cache() if use_cache else None
        pending, new_ids = tokens, list[int]()
        limit = max_new_tokens if sliding_window else min(max_new_tokens, context - len(input_ids))
        while len(new_ids) < limit:
            if tokens.shape[1] >= context:  # only where it slides
                pending = tokens = tokens[:, -(context // 2) :]
                cache = new_cache() if use_cache else None
            logits = self(pending, kv_cache=cache, num_logits_to_keep=1)[0, -1]
            token_id = _sample(logits.float(), temperature, top_k, generator)
            if int(token_id) in stop_token_ids:
                break
            new_ids.append(int(token_id))
            tokens = torch.cat([tokens, token_id.view(1, 1)], dim=1)
            pending = token_id.view(1, 1) if use_cache else tokens
        return new_ids


def _sample(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    """One token id from float32 logits [vocab_size]."""
    if temperature == 0:
        return logits.argmax()
    logits = logits / temperature
    if top_k is not None and top_k < len(logits):
        kept = logits.topk(top_k)
        logits = torch.full_like(logits, -torch.inf).scatter(0, kept.indices, kept.values)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[0]
