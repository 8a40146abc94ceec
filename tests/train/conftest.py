"""A run so small that it takes a second, for the laws that a whole run must obey."""

import pytest

from train.config import Recipe
from train.run.folder import RunFolder
from train.setup import start_run

TINY_SHAPE = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "initializer_range": 0.05,
}


@pytest.fixture
def tiny_recipe():
    """Makes a recipe of 20 steps; keyword arguments such as `run={"seed": 1}` are merged into its sections."""

    def make(**sections):
        values = {
            "model": {"preset": "tiny", "overrides": TINY_SHAPE},
            "tokenizer": {"vocab_size": 400},
            "data": {"documents": 120, "held_out": 0.05, "context": 48, "batch_size": 2},
            "optimizer": {"lr": 1e-2},
            "schedule": {"steps": 20, "warmup_steps": 4, "decay_steps": 5},
            "run": {"evaluate_every": 10, "sample_every": 0, "save_every": 10},
            "machine": {"device": "cpu", "threads": 1},
        }
        return Recipe.from_dict({name: values[name] | sections.get(name, {}) for name in values})

    return make


@pytest.fixture
def tiny_run(tiny_recipe, tmp_path):
    """Makes a run that has not taken a step."""

    def make(name="run", **sections):
        return start_run(tiny_recipe(**sections), RunFolder(tmp_path / name))

    return make
