"""SmolLM2's shapes with random weights: memory, sizes and coverage, as promised. Minutes, so marked slow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from model import ModelConfig, TransformerModel, save_checkpoint
from runtime import Bundle, DecoderSession

ROOT = Path(__file__).resolve().parents[2]
# The child's own memory, looked at every 20 ms: pages of mapped files, which the system may drop at will, do not count.
MEASURED_EXPORT = """
import re, sys, threading, time
from pathlib import Path
from export.__main__ import main
peak = 0
def watch():
    global peak
    while True:
        status = Path("/proc/self/status").read_text()
        peak = max(peak, 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", status)[1]))
        time.sleep(0.02)
threading.Thread(target=watch, daemon=True).start()
code = main(sys.argv[1:])
print(peak, file=sys.stderr)
sys.exit(code)
"""


def make_checkpoint(config: ModelConfig, shared_data: Path, folder: Path) -> Path:
    """Random weights under SmolLM2's tokenizer."""
    torch.manual_seed(0)
    save_checkpoint(TransformerModel(config), folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((shared_data / "smollm2-tokenizer" / name).read_bytes())
    return folder


def measured_export(checkpoint: Path, bundle: Path, *options: str) -> tuple[dict, int]:
    """The manifest, and the peak of the process's own memory in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED_EXPORT, "run", str(checkpoint), "--out", str(bundle), "--json", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout), int(done.stderr.splitlines()[-1])


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")


@needs_proc
@pytest.mark.slow
def test_the_135m_shape_exports_within_its_limits(shared_data, tmp_path):
    folder = make_checkpoint(ModelConfig.from_preset("smollm2-135m"), shared_data, tmp_path / "checkpoint")
    manifest, peak_bytes = measured_export(folder, tmp_path / "bundle")
    assert peak_bytes < 6e9
    for name, limit in (("fp32", 545e6), ("int8", 145e6), ("q8", 145e6)):
        assert manifest["precisions"][name]["file_bytes"] <= limit
        assert manifest["precisions"][name]["vocabulary_tables"] == 1
    for name in ("int8", "q8"):
        assert manifest["precisions"][name]["int8_weight_fraction"] == 1
    assert manifest["comparison"]["precisions"]["fp32"]["max_relative_logit_difference"] <= 1e-4


@needs_proc
@pytest.mark.slow
def test_more_than_two_gigabytes_of_weights_export_in_little_memory(shared_data, tmp_path):
    """A third of the 1.7B shape; docs/decisions/0001 has the whole."""
    config = ModelConfig.from_preset("smollm2-1.7b").replace(num_hidden_layers=8)
    folder = make_checkpoint(config, shared_data, tmp_path / "checkpoint")
    weight_bytes = (folder / "model.safetensors").stat().st_size
    assert weight_bytes > 2**31
    manifest, peak_bytes = measured_export(folder, tmp_path / "bundle", "--no-compare")
    assert peak_bytes <= 2.2 * weight_bytes
    for name in ("int8", "q8"):
        assert manifest["precisions"][name]["int8_weight_fraction"] == 1
        assert manifest["precisions"][name]["vocabulary_tables"] == 1
    session = DecoderSession(Bundle.open(tmp_path / "bundle"), "int8")
    assert np.isfinite(session.forward([1, 2, 3], session.new_cache())).all()
