"""Names and shapes of a config's parameters, and how many numbers each part of the model has.

The modules are the one place where shapes are written; both functions read them from a model without storage.
"""

from __future__ import annotations

import math

import torch

from model.config import ModelConfig
from model.transformer import TransformerModel

# Part of the model -> what the names of its parameters contain. The first that fits counts.
_PARTS = {
    "embed_tokens": "embed_tokens.",
    "embed_positions": "embed_positions.",
    "lm_head": "lm_head.",
    "attention": ".self_attn.",
    "mlp": ".mlp.",
    "norms": "norm.",
}


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a checkpoint of this config holds; a tied head is `embed_tokens`."""
    with torch.device("meta"):
        model = TransformerModel(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def parameter_counts(config: ModelConfig) -> dict[str, int]:
    """Parameters by part. A tied head counts zero, for its matrix is `embed_tokens`.

    Returns:
        `{"embed_tokens", "embed_positions", "attention", "mlp", "norms", "lm_head", "total"}`.
    """
    counts = dict.fromkeys(("embed_tokens", "embed_positions", "attention", "mlp", "norms", "lm_head"), 0)
    for name, shape in parameter_shapes(config).items():
        part = next(part for part, word in _PARTS.items() if word in name)
        counts[part] += math.prod(shape)
    return counts | {"total": sum(counts.values())}


def describe_parameters(config: ModelConfig) -> str:
    """The counts as lines of text, each with its share of the whole."""
    counts = parameter_counts(config)
    total = counts["total"]
    lines = [f"{part:<16} {count:>13,} {count / total:>7.1%}" for part, count in counts.items() if count]
    if config.tie_word_embeddings:
        lines.insert(-1, f"{'lm_head':<16} {'tied':>13}         (shares embed_tokens)")
    return "\n".join(lines)
