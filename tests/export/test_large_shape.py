"""SmolLM2-135M's shape with random weights: time, memory, sizes and coverage, as promised. Minutes, so marked slow."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from model import ModelConfig, TransformerModel, save_checkpoint

ROOT = Path(__file__).resolve().parents[2]
# resource reports the peak of the child alone, which this process cannot see for itself.
MEASURED_EXPORT = """
import resource, sys
from export.__main__ import main
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.slow
def test_the_135m_shape_exports_within_its_limits(shared_data, tmp_path):
    torch.manual_seed(0)
    folder = save_checkpoint(TransformerModel(ModelConfig.from_preset("smollm2-135m")), tmp_path / "checkpoint")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((shared_data / "smollm2-tokenizer" / name).read_bytes())
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED_EXPORT, "run", str(folder), "--out", str(tmp_path / "bundle"), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    print(f"{time.perf_counter() - started:.0f} s")
    assert int(done.stderr.splitlines()[-1]) < 6e9
    manifest = json.loads(done.stdout)
    for name, limit in (("fp32", 545e6), ("int8", 150e6), ("q8", 260e6)):
        assert manifest["precisions"][name]["file_bytes"] <= limit
        assert manifest["precisions"][name]["vocabulary_tables"] == 1
    for name in ("int8", "q8"):
        assert manifest["precisions"][name]["int8_weight_fraction"] >= 0.99
    assert manifest["comparison"]["precisions"]["fp32"]["max_relative_logit_difference"] <= 1e-4
