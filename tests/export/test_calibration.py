"""The second moments are those of the model's real activations, on a text that is the model's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.calibration import Calibration, sample
from export.errors import ExportError
from tests.export.graphs import CHANGES, make_checkpoint


@pytest.mark.parametrize("changes", [CHANGES[0], CHANGES[4], CHANGES[-1]], ids=str)
def test_the_moments_are_what_the_whole_model_has(changes, tmp_path):
    checkpoint, model = make_checkpoint(tmp_path, changes)
    calibration = Calibration(checkpoint, tokens=256, progress=False)
    inputs = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _, x, __, name=name: inputs.update({name: x[0].flatten(0, -2)}))
    with torch.inference_mode():
        model(calibration.rows)
    for name in ("0.self_attn.qkv_proj", "0.mlp.up_proj", "1.self_attn.o_proj", "1.mlp.down_proj", "0.mlp.gate_proj"):
        x = inputs[f"model.layers.{name.replace('qkv', 'v')}"].numpy()
        found = calibration.second_moment(f"model.layers.{name}")
        assert np.allclose(found, x.T @ x / len(x), rtol=1e-3, atol=1e-4 * np.abs(found).max())


def test_samples_are_the_models_own_and_always_the_same(tmp_path):
    checkpoint, _ = make_checkpoint(tmp_path, {"bos_token_id": 5, "eos_token_id": 7})
    rows = sample(checkpoint, 512, progress=False)[0]
    assert torch.equal(rows, sample(checkpoint, 512, progress=False)[0])
    assert rows.numel() >= 512
    assert rows.shape[1] <= checkpoint.config.max_position_embeddings
    assert (rows[:, 0] == 5).all()
    assert not (rows == 7).any()  # an end of text is followed by, here stands as, the next one's beginning


def test_fewer_tokens_than_none_are_refused(tmp_path):
    checkpoint, _ = make_checkpoint(tmp_path, {})
    with pytest.raises(ExportError, match=r"0 .* or above"):
        Calibration(checkpoint, tokens=-1)
