"""A source of weights: whatever has a config and hands out its tensors by name.

A checkpoint folder is one (`model/checkpoint.py`); so is a view of another source that changes some tensors on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from model.config import ModelConfig
from model.transformer import TransformerBlock, TransformerModel

HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"


class WeightSource(Protocol):
    """Weights under Hugging Face's names, read one at a time, so that a model larger than memory can be exported."""

    @property
    def config(self) -> ModelConfig:
        """The shape of the model."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name -> shape of every tensor, as `parameter_shapes(config)` gives them: a tied head is not listed."""

    def tensor(self, name: str) -> Tensor:
        """One parameter as float32; `lm_head.weight` of a tied model is the vocabulary table.

        Raises:
            CheckpointError: the numbers cannot be read, or are not all finite.
        """


class ModelSource(WeightSource, Protocol):
    """Weights with the files that a bundle needs beside them."""

    @property
    def folder(self) -> Path:
        """Where the model and its side files lie; nothing is written there."""

    def side_files(self) -> Iterable[Path]:
        """The tokenizer's files and `generation_config.json`, those that are there."""


def build_model(
    weights: WeightSource, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> TransformerModel:
    """A model with these weights, in eval mode. Raises as `WeightSource.tensor` does."""
    config = weights.config
    with torch.device("meta"):
        model = TransformerModel(config)
    state = {name: weights.tensor(name).to(device=device, dtype=dtype) for name in weights.shapes}
    if config.tie_word_embeddings:
        state[HEAD] = state[TABLE]
    model.load_state_dict(state, strict=True, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    # The meta device left the tables of RoPE without numbers, and no file stores them.
    model.model.rotary = type(model.model.rotary)(config).to(device)
    return model.eval()


def build_block(weights: WeightSource, layer: int) -> TransformerBlock:
    """One layer with its weights in float32, in eval mode. Raises as `WeightSource.tensor` does."""
    with torch.device("meta"):
        block = TransformerBlock(weights.config, layer)
    prefix = f"model.layers.{layer}."
    state = {name: weights.tensor(prefix + name) for name, _ in block.named_parameters()}
    block.load_state_dict(state, strict=True, assign=True)
    return block.eval()
