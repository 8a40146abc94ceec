"""What is inside a model while it writes text: the second moments of its layers' inputs, the range of its cache.

The text is sampled from the model itself, so users need not bring any. Layers run one after the other with the weights
of one in memory; ask for them in order, as `graph.py` does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from export.errors import ExportError
from export.int8_cache import CacheRange
from model import ModelConfig, WeightSource, build_model
from model.rotary import RotaryPositionalEmbedding
from model.weights import build_block
from runtime.progress import progress_bar

DEFAULT_TOKENS = 8192
FEWEST_ROWS, LONGEST_ROW = 32, 256
# Linear layers that read what another one reads.
SAME_INPUT = {"qkv_proj": "q_proj", "k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}


class Calibration:
    """Second moments of a model's activations.

    Args:
        weights: of the model.
        tokens: how many to sample, approximately, when they are first needed. With 0 no weight is rounded by them
            (GPTQ); whatever else needs a text gets `DEFAULT_TOKENS`.
        progress: show how far it is, on stderr.

    Raises:
        ExportError: a negative number of tokens.
    """

    def __init__(self, weights: WeightSource, *, tokens: int = DEFAULT_TOKENS, progress: bool = True) -> None:
        if tokens < 0:
            raise ExportError(f"--calibration-tokens must be 0 (to the nearest) or above, not {tokens}")
        self.weights = weights
        self.tokens = tokens
        self.progress = progress
        self._samples: tuple[Tensor, CacheRange] | None = None
        self._layer = -1
        self._hidden: list[Tensor] = []
        self._moments: dict[str, Tensor] = {}

    @property
    def config(self) -> ModelConfig:
        """The model's."""
        return self.weights.config

    @property
    def rows(self) -> Tensor:
        """The sampled token ids, int64 [rows, length]."""
        return self._sampled()[0]

    @property
    def cache_range(self) -> CacheRange:
        """What the cache held while they were sampled."""
        return self._sampled()[1]

    def second_moment(self, name: str) -> np.ndarray:
        """The mean of x x^T over the inputs x of a linear layer, float32 [in_features, in_features].

        Args:
            name: such as `model.layers.3.mlp.down_proj`; products of several, such as `qkv_proj`, have one input.
        """
        _, _, number, part, projection = name.split(".")
        layer = int(number)
        if layer < self._layer:
            self._layer = -1
        while self._layer < layer:
            self._advance()
        return self._moments[f"{part}.{SAME_INPUT.get(projection, projection)}"].numpy()

    def _sampled(self) -> tuple[Tensor, CacheRange]:
        if self._samples is None:
            self._samples = sample(self.weights, self.tokens or DEFAULT_TOKENS, progress=self.progress)
        return self._samples

    @torch.inference_mode()
    def _advance(self) -> None:
        """Run the next layer on what the one before has left, and keep the second moments of its linear layers."""
        if self._layer < 0:
            self._hidden = self._embedded()
        self._layer += 1
        block = build_block(self.weights, self._layer)
        rotary = RotaryPositionalEmbedding(self.config)
        sums: dict[str, Tensor] = {}
        for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"):
            block.get_submodule(name).register_forward_pre_hook(_adder(sums, name))
        positions = torch.arange(self.rows.shape[1])[None]
        self._hidden = [block(hidden, positions, rotary, None) for hidden in self._hidden]
        self._moments = {name: total / self.rows.numel() for name, total in sums.items()}

    def _embedded(self) -> list[Tensor]:
        """What the first layer reads: float32 [1, length, hidden_size] a row."""
        hidden = self.weights.tensor("model.embed_tokens.weight")[self.rows]
        if self.config.learned_position_embeddings:
            hidden += self.weights.tensor("model.embed_positions.weight")[: self.rows.shape[1]]
        return list(hidden.split(1))


@torch.inference_mode()
def sample(weights: WeightSource, tokens: int, *, progress: bool = True) -> tuple[Tensor, CacheRange]:
    """What a model writes at temperature 1 from its BOS token, and what its cache holds meanwhile.

    Where a text ends, the next one begins in the same row.

    Returns:
        The token ids, int64 [rows, length], about `tokens` in all; and the range of their keys and values.
    """
    config = weights.config
    length = max(2, min(LONGEST_ROW, config.max_position_embeddings, tokens // FEWEST_ROWS))
    start = config.bos_token_id or 0
    ends = torch.tensor(config.eos_token_ids, dtype=torch.int64)
    model = build_model(weights)
    rows = torch.full((-(-tokens // length), 1), start)
    cache = model.new_cache(len(rows), length)
    generator = torch.Generator().manual_seed(0)
    for _ in progress_bar(range(length - 1), description="sample", unit="tokens", show=progress):
        logits = model(rows[:, -1:], kv_cache=cache, num_logits_to_keep=1)[:, 0]
        drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        rows = torch.cat([rows, torch.where(torch.isin(drawn, ends), start, drawn)], dim=1)
    return rows, CacheRange.of(cache, config)


def _adder(sums: dict[str, Tensor], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A hook that adds x^T x of a layer's input to the sum of its name."""

    def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].flatten(0, -2)
        sums[name] = sums[name] + x.T @ x if name in sums else x.T @ x

    return add
