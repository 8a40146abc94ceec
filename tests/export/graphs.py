"""Small checkpoints and a bare way to run their graphs, batches included: what the tests of `export` share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch

from export.graph import build_graph
from export.operators import FusedOperators
from export.weight_formats import WeightFormat
from model import Checkpoint, ModelConfig, TransformerModel, load_checkpoint, save_checkpoint
from runtime import contract
from runtime.engine.exact_products import exact_product_options

BASE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "rope_theta": 1000.0,
    "initializer_range": 0.2,
}
CHANGES = [
    {},
    {"num_key_value_heads": 4},
    {"num_key_value_heads": 1},
    {"tie_word_embeddings": False},
    {"attention_bias": True, "mlp_bias": True},
    {"attention_bias": True, "head_dim": 8},
    {"head_dim": 8, "rope_interleaved": True},
    {"head_dim": 32, "intermediate_size": 72},
    {"rope_interleaved": True},
    {"learned_position_embeddings": True},
    {"rope_interleaved": True, "learned_position_embeddings": True, "attention_bias": True, "mlp_bias": True},
]


def make_checkpoint(folder: Path, changes: dict) -> tuple[Checkpoint, TransformerModel]:
    """A saved random model whose norms and biases matter too."""
    torch.manual_seed(0)
    model = TransformerModel(ModelConfig(**(BASE | changes)))
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    save_checkpoint(model, folder)
    return Checkpoint(folder), load_checkpoint(folder)


def open_session(path: Path) -> ort.InferenceSession:
    """As the runtime opens a graph: 8-bit products are exact, whatever the CPU."""
    options = ort.SessionOptions()
    for entry in exact_product_options().items():
        options.add_session_config_entry(*entry)
    return ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])


class Graph:
    """A session on a graph, fed with arrays; the cache is a list that goes in and comes out."""

    def __init__(self, checkpoint: Checkpoint, weight_format: WeightFormat, path: Path) -> None:
        self.config = checkpoint.config
        ir.save(build_graph(checkpoint, weight_format), path)
        self.session = open_session(path)

    def empty_cache(self, batch: int) -> list[np.ndarray]:
        shape = (batch, self.config.num_key_value_heads, 0, FusedOperators.cache_head_dim(self.config))
        return [np.zeros(shape, np.float32)] * (2 * self.config.num_hidden_layers)

    def __call__(
        self,
        ids: np.ndarray,
        cache: list[np.ndarray] | None = None,
        *,
        mask: np.ndarray | None = None,
        positions: np.ndarray | None = None,
        keep: int = 0,
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """ids [batch, sequence] after the cache -> logits and the longer cache."""
        batch, sequence = ids.shape
        cache = cache or self.empty_cache(batch)
        past = cache[0].shape[2]
        feeds = {
            contract.INPUT_IDS: ids.astype(np.int64),
            contract.ATTENTION_MASK: np.ones((batch, past + sequence), np.int64) if mask is None else mask,
            contract.POSITION_IDS: np.tile(np.arange(past, past + sequence), (batch, 1))
            if positions is None
            else positions,
            contract.NUM_LOGITS_TO_KEEP: np.array(keep, np.int64),
        }
        names = [name for layer in range(self.config.num_hidden_layers) for name in contract.past_names(layer)]
        logits, *presents = self.session.run(None, feeds | dict(zip(names, cache, strict=True)))
        return logits, presents


def relative_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference over the largest expected number."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
