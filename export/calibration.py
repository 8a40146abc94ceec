"""What is inside a model while it writes text: the second moments of its layers' inputs, and its cache.

The text is sampled from the model itself, so users need not bring any. Layers run one after the other with the weights
of one in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from export.cache_statistics import CacheStatistics
from export.errors import ExportError
from model import ModelConfig, TransformerModel, WeightSource, build_model
from model.attention import KVCache
from model.norm import RMSNorm
from model.rotary import RotaryPositionalEmbedding
from model.weights import build_block
from runtime.progress import progress_bar

DEFAULT_TOKENS = 4096
# Keys and values of the rows that are sampled together stay below this size.
SAMPLED_BYTES = 2**30
FEWEST_ROWS, LONGEST_ROW = 32, 128
# So many of the sampled tokens are looked at as the first of a text.
FIRST_TOKENS = 64
# Linear layers that read what another one reads.
SAME_INPUT = {"qkv_proj": "q_proj", "k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
INPUTS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
HEAD, TABLE = "lm_head", "model.embed_tokens"
# Moments up to this size in all are kept for the next graph; of larger models, those of one layer at a time.
KEPT_BYTES = 2**30


class View(WeightSource, Protocol):
    """Weights of another source that compute the same function, on inputs of another size.

    Attributes:
        folded: what was done to them, for the manifest.
    """

    folded: str

    def input_moment(self, name: str, moment: Tensor) -> Tensor:
        """The second moment of a linear layer's inputs as seen by the view, from that before; [in_features] twice."""


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
        self._source: Calibration | None = None
        self._views: Sequence[View] = ()
        self._samples: tuple[Tensor, CacheStatistics] | None = None
        self._layer = -1
        self._hidden: list[Tensor] = []
        self._moments: dict[str, Tensor] = {}
        self._mean_squares: dict[str, Tensor] = {}

    def through(self, *views: View) -> Calibration:
        """The same text seen by a view of the weights, so nothing is sampled or run again.

        Args:
            views: the first over the weights of this calibration, each other one over the one before it.
        """
        seen = Calibration(views[-1], tokens=self.tokens, progress=self.progress)
        seen._source, seen._views = self, views
        return seen

    @property
    def config(self) -> ModelConfig:
        """The model's."""
        return self.weights.config

    @property
    def folded(self) -> list[str]:
        """What the views have done to the weights, for the manifest."""
        return [view.folded for view in self._views]

    @property
    def rows(self) -> Tensor:
        """The sampled token ids, int64 [rows, length]."""
        return self._sampled()[0]

    @property
    def cache_statistics(self) -> CacheStatistics:
        """What the cache held while they were sampled."""
        return self._sampled()[1]

    def mean_squares(self, name: str) -> Tensor:
        """Of the inputs of a linear layer, float32 [in_features]. Raises ValueError for a table that has none."""
        if name not in self._mean_squares:
            moment = self.second_moment(name)
            if moment is None:
                raise ValueError(f"{name} is looked up, and has no inputs")
            self._mean_squares[name] = torch.from_numpy(moment).diagonal().clone()
        return self._mean_squares[name]

    def second_moment(self, name: str) -> np.ndarray | None:
        """The mean of x x^T over the inputs x of a linear layer, float32 [in_features, in_features].

        None for the vocabulary table of a model whose head is another matrix: it is looked up, and multiplies nothing.

        Fastest if asked for in the order of the layers, as `graph.py` does; the head comes last.

        Args:
            name: such as `model.layers.3.mlp.down_proj`; products of several, such as `qkv_proj`, have one input.
        """
        if name == TABLE and not self.config.tie_word_embeddings:
            return None
        if self._source is not None:
            return self._seen(name, self._source.second_moment(name))
        key, layer = self._key(name)
        if key not in self._moments and layer <= self._layer:
            self._layer = -1
        while key not in self._moments:
            self._advance()
        return self._moments[key].numpy()

    def _seen(self, name: str, moment: np.ndarray | None) -> np.ndarray | None:
        """A moment of this calibration's source, of inputs that the views have multiplied."""
        if moment is None:
            return None
        seen = torch.from_numpy(moment)
        for view in self._views:
            seen = view.input_moment(name, seen)
        found: np.ndarray = seen.numpy()
        return found

    def _key(self, name: str) -> tuple[str, int]:
        """The name by which the moments of a layer's inputs are known, and when in the pass they come."""
        if name in (HEAD, TABLE):
            return HEAD, self.config.num_hidden_layers
        prefix, _, projection = name.rpartition(".")
        return f"{prefix}.{SAME_INPUT.get(projection, projection)}", int(name.split(".")[2])

    def _sampled(self) -> tuple[Tensor, CacheStatistics]:
        if self._source is not None:
            return self._source.rows, self._source.cache_statistics
        if self._samples is None:
            self._samples = sample(self.weights, self.tokens or DEFAULT_TOKENS, progress=self.progress)
        return self._samples

    @torch.inference_mode()
    def _advance(self) -> None:
        """Run the next layer on what the one before has left, and keep the second moments of its linear layers."""
        if self._layer < 0:
            self._hidden = self._embedded()
        self._layer += 1
        if not self._fit_in_memory():
            self._moments = {}
        if self._layer == self.config.num_hidden_layers:
            self._head()
            return
        block = build_block(self.weights, self._layer)
        rotary = RotaryPositionalEmbedding(self.config)
        sums: dict[str, Tensor] = {}
        for name in INPUTS:
            block.get_submodule(name).register_forward_pre_hook(_adder(sums, name))
        positions = torch.arange(self.rows.shape[1])[None]
        self._hidden = [block(hidden, positions, rotary, None) for hidden in self._hidden]
        for name, total in sums.items():
            self._moments[f"model.layers.{self._layer}.{name}"] = total / self.rows.numel()

    def _head(self) -> None:
        """The inputs of the head."""
        norm = RMSNorm(self.config.hidden_size, self.config.rms_norm_eps)
        norm.weight.copy_(self.weights.tensor("model.norm.weight"))
        x = norm(torch.cat(self._hidden)).flatten(0, -2)
        self._hidden = []
        self._moments[HEAD] = x.T @ x / len(x)

    def _fit_in_memory(self) -> bool:
        config = self.config
        attended = config.num_attention_heads * config.head_dim
        numbers = 2 * config.hidden_size**2 + attended**2 + config.intermediate_size**2
        return 4 * numbers * config.num_hidden_layers <= KEPT_BYTES

    def _embedded(self) -> list[Tensor]:
        """What the first layer reads: float32 [1, length, hidden_size] a row."""
        hidden = self.weights.tensor("model.embed_tokens.weight")[self.rows]
        if self.config.learned_position_embeddings:
            hidden += self.weights.tensor("model.embed_positions.weight")[: self.rows.shape[1]]
        return list(hidden.split(1))


@torch.inference_mode()
def sample(weights: WeightSource, tokens: int, *, progress: bool = True) -> tuple[Tensor, CacheStatistics]:
    """What a model writes at temperature 1 from its BOS token, and what its cache holds meanwhile.

    Where a text ends, the next one begins in the same row.

    Returns:
        The token ids, int64 [rows, length], about `tokens` in all; and where their keys and values lie.
    """
    config = weights.config
    length = max(2, min(LONGEST_ROW, config.max_position_embeddings, tokens // FEWEST_ROWS))
    row_bytes = 8 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * length
    rows, at_once = -(-tokens // length), max(FEWEST_ROWS, SAMPLED_BYTES // row_bytes)
    model, generator = build_model(weights), torch.Generator().manual_seed(0)
    parts, statistics, first = [], [], None
    with progress_bar(description="sample", unit="tokens", total=rows * length, show=progress) as bar:
        for start in range(0, rows, at_once):
            cache = model.new_cache(min(at_once, rows - start), length)
            parts.append(_sampled_rows(model, cache, length, generator, bar.update))
            first = _first_tokens(model, parts[0]) if first is None else first
            statistics.append(CacheStatistics.of(cache, first, config))
    return torch.cat(parts), CacheStatistics.around(statistics)


def _sampled_rows(
    model: TransformerModel, cache: KVCache, length: int, generator: torch.Generator, advance: Callable[[int], object]
) -> Tensor:
    """Token ids, int64 [rows, length], as many rows as the cache has."""
    config, rows = model.config, cache.keys.shape[1]
    start, ends = config.bos_token_id or 0, torch.tensor(config.eos_token_ids, dtype=torch.int64)
    ids = torch.full((rows, 1), start)
    for _ in range(length - 1):
        logits = model(ids[:, -1:], kv_cache=cache, num_logits_to_keep=1)[:, 0]
        drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        ids = torch.cat([ids, torch.where(torch.isin(drawn, ends), start, drawn)], dim=1)
        advance(rows)
    return ids


def _first_tokens(model: TransformerModel, rows: Tensor) -> KVCache:
    """The cache of texts of one token each: tokens of the rows, the BOS token among them."""
    places = torch.linspace(0, rows.numel() - 1, FIRST_TOKENS).long()
    cache = model.new_cache(FIRST_TOKENS, 1)
    model(rows.flatten()[places].unsqueeze(1), kv_cache=cache, num_logits_to_keep=1)
    return cache


def _adder(sums: dict[str, Tensor], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A hook that adds x^T x of a layer's input to the sum of its name."""

    def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].flatten(0, -2)
        sums[name] = sums[name] + x.T @ x if name in sums else x.T @ x

    return add
