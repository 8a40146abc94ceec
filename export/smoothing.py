"""The same function with features moved to another size, so that rounding costs it less.

A feature that one matrix writes and another reads may be multiplied by t on its way and divided by t where it is read.
Activations are rounded in steps of the largest of their block, and so are weights, so what rounding costs a product of
activations of mean squares e and weights of squares g is about `sum(e t^2) * sum(g / t^2)`, the sums over a block. It
is least at t = (g / e)^(1/4), where it is `sum(sqrt(e g))^2`: every feature then counts the same on both sides.
SmoothQuant (arXiv:2211.10438) does the same with the largest magnitudes in place of mean squares.

Nothing is added to a graph by it: the factors are folded into norms and weights. The exception is a tied vocabulary
table: its rows are divided by the head's factors, and multiplied by them again when they are looked up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from model import ModelConfig, WeightSource
from model.weights import HEAD, TABLE

# The factors of a smoothed tied table, [hidden_size]; sources that have them list them among their shapes.
TABLE_SCALE = "model.embed_tokens.scale"
LAST_NORM = "model.norm.weight"
LAYER_TENSOR = re.compile(r"(model\.layers\.\d+\.)(.+)")
# What writes features -> the matrices that read them.
READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.up_proj": ("mlp.down_proj",),
}
WRITER = {reader: writer for writer, readers in READERS.items() for reader in readers}


class SmoothedCheckpoint:
    """A source of weights seen with smoothed features; the model computes the same function.

    Args:
        weights: of the model.
        mean_squares: from a linear layer's name to those of its inputs, float32 [in_features]. Asked for when a tensor
            needs them.
        smooths_tied_head: False leaves a tied table as it is, for a model that cannot scale what it looks up.
    """

    folded = "features balanced between activations and weights, in norms, up_proj and the head"

    def __init__(
        self, weights: WeightSource, mean_squares: Callable[[str], Tensor], *, smooths_tied_head: bool = True
    ) -> None:
        self._weights = weights
        self._mean_squares = mean_squares
        self._factors: dict[str, Tensor] = {}
        self.config: ModelConfig = weights.config
        self.shapes: Mapping[str, tuple[int, ...]] = weights.shapes
        self._smooths_head = smooths_tied_head or not self.config.tie_word_embeddings
        if self._smooths_head and self.config.tie_word_embeddings:
            self.shapes = {**weights.shapes, TABLE_SCALE: (self.config.hidden_size,)}

    def input_moment(self, name: str, moment: Tensor) -> Tensor:
        """The second moment of a linear layer's inputs, [in_features, in_features], once they are smoothed.

        Args:
            name: such as `model.layers.3.mlp.down_proj`; products of several, such as `qkv_proj`, have one input.
            moment: as they are before.
        """
        factor = self._input_factor(name)
        return moment if factor is None else moment * factor.outer(factor)

    def _input_factor(self, name: str) -> Tensor | None:
        name = name.replace("qkv_proj", "q_proj")
        if f"{name}.weight" in (HEAD, TABLE):
            return self._head_factor() if self._smooths_head else None
        found = LAYER_TENSOR.fullmatch(name)
        if found is None or found[2] not in WRITER:
            return None
        return self._layer_factor(found[1], WRITER[found[2]])

    def tensor(self, name: str) -> Tensor:
        """`WeightSource.tensor`, smoothed."""
        if name == TABLE_SCALE:
            return self._head_factor()
        tensor = self._weights.tensor(name)
        if name in (HEAD, TABLE, LAST_NORM):
            return self._head_tensor(tensor, name)
        found = LAYER_TENSOR.fullmatch(name)
        if found is None:
            return tensor
        module, _, kind = found[2].rpartition(".")
        if module in READERS:
            factor = self._layer_factor(found[1], module)
            tensor = tensor * (factor[:, None] if tensor.ndim == 2 else factor)
        if module in WRITER and kind == "weight":
            tensor = tensor / self._layer_factor(found[1], WRITER[module])
        return tensor

    def _head_tensor(self, tensor: Tensor, name: str) -> Tensor:
        is_lookup_alone = name == TABLE and not self.config.tie_word_embeddings
        if not self._smooths_head or is_lookup_alone:
            return tensor
        return tensor * self._head_factor() if name == LAST_NORM else tensor / self._head_factor()

    def _head_factor(self) -> Tensor:
        if HEAD not in self._factors:
            squares = self._weights.tensor(HEAD).square().sum(0)
            self._factors[HEAD] = even_factor(self._mean_squares("lm_head"), squares)
        return self._factors[HEAD]

    def _layer_factor(self, prefix: str, writer: str) -> Tensor:
        key = prefix + writer
        if key not in self._factors:
            readers = [f"{prefix}{reader}" for reader in READERS[writer]]
            squares = torch.stack([self._weights.tensor(f"{reader}.weight").square().sum(0) for reader in readers])
            self._factors[key] = even_factor(self._mean_squares(readers[0]), squares.sum(0))
        return self._factors[key]


def even_factor(activations: Tensor, weights: Tensor) -> Tensor:
    """(weights / activations)^(1/4) for each feature, float32; the geometric mean of all is one.

    Args:
        activations: mean squares, float32 [features].
        weights: sums of squares over the outputs, float32 [features].
    """
    is_dead = (activations <= 0) | (weights <= 0)  # such a feature counts nowhere, whatever its factor
    ratio = torch.where(is_dead, 1.0, weights / activations).double() ** 0.25
    mean = ratio[~is_dead].log().mean().exp() if not is_dead.all() else 1.0
    return torch.where(is_dead, 1.0, ratio / mean).float()
