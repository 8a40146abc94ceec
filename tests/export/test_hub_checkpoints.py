"""Checkpoints on a Hub: what is downloaded of them, and what they become."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tests.export.hub_server import completed, downloaded, files_of, one_line


def test_a_checkpoint_is_exported_by_its_id_and_revision(hub, run, checkpoint_folder, tmp_path):
    weights = files_of(checkpoint_folder)
    hub.repos["base/tiny"] = {"main": {"config.json": b"{}"}, "v1": weights | {"evil.bin": b"pickle"}}
    hub.drops = {"model.safetensors": 1}  # HEAD first, then the body: cut in the middle
    out = tmp_path / "out"
    arguments = ("export", "run", "base/tiny", "--revision", "v1", "--out", out, "--precisions", "fp32", "--no-compare")
    completed(lambda: run(*arguments))
    assert hub.drops == {"model.safetensors": 0}
    assert not any("evil.bin" in path for path in hub.sent("GET"))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["base_model"] == "base/tiny"
    assert "base_model: base/tiny" in (out / "README.md").read_text()


def stored_forms(folder: Path) -> dict[str, dict[str, bytes]]:
    """The same weights in every form that is read: the files of each."""
    import torch
    from safetensors.torch import load_file, save

    tensors = load_file(folder / "model.safetensors")
    halves = {"1-of-2": dict(list(tensors.items())[::2]), "2-of-2": dict(list(tensors.items())[1::2])}

    def pickled(part: dict) -> bytes:
        buffer = io.BytesIO()
        torch.save(part, buffer)
        return buffer.getvalue()

    def sharded(stem: str, suffix: str, save_part) -> dict[str, bytes]:
        files = {f"{stem}-0000{place}{suffix}": save_part(part) for place, part in halves.items()}
        weight_map = {name: f"{stem}-0000{place}{suffix}" for place, part in halves.items() for name in part}
        return files | {f"{stem}{suffix}.index.json": json.dumps({"weight_map": weight_map}).encode()}

    return {
        "whole": {"model.safetensors": save(tensors)},
        "sharded": sharded("model", ".safetensors", save),
        "whole pickle": {"pytorch_model.bin": pickled(tensors)},
        "sharded pickle": sharded("pytorch_model", ".bin", pickled),
    }


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (("whole", "whole pickle"), "whole"),
        (("sharded", "sharded pickle"), "sharded"),
        (("whole pickle",), "whole pickle"),
        (("sharded pickle",), "sharded pickle"),
    ],
    ids=str,
)
def test_one_form_of_the_weights_is_downloaded(hub, run, checkpoint_folder, tmp_path, stored, wanted):
    forms = stored_forms(checkpoint_folder)
    small = {name: data for name, data in files_of(checkpoint_folder).items() if name.endswith(".json")}
    files = small | {name: data for form in stored for name, data in forms[form].items()}
    hub.repos["base/tiny"] = {"main": files | {"consolidated.safetensors": b"again", "training_args.bin": b"pickle"}}
    out = tmp_path / "out"
    done = run("export", "run", "base/tiny", "--out", out, "--precisions", "fp32", "--no-compare")
    assert done.returncode == 0, done.stderr
    assert downloaded(hub) == small.keys() | forms[wanted].keys() | {name for name in files if name.endswith(".json")}
    again = run("export", "run", checkpoint_folder, "--out", tmp_path / "local", "--precisions", "fp32", "--no-compare")
    assert again.returncode == 0, again.stderr
    assert (out / "onnx/model.onnx").read_bytes() == (tmp_path / "local" / "onnx/model.onnx").read_bytes()


def test_an_adapter_is_downloaded_and_merged(hub, run, checkpoint_folder, tmp_path):
    import torch
    from safetensors.torch import save

    files = files_of(checkpoint_folder)
    hidden = json.loads(files["config.json"])["hidden_size"]
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    factors = {name.format("A"): torch.ones(1, hidden), name.format("B"): torch.ones(hidden, 1)}
    settings = {"peft_type": "LORA", "base_model_name_or_path": "base/tiny", "r": 1, "lora_alpha": 1}
    hub.repos["base/tiny"] = {"main": files}
    hub.repos["someone/lora"] = {
        "main": {
            "adapter_config.json": json.dumps(settings).encode(),
            "adapter_model.safetensors": save(factors),
            "config.json": files["config.json"],  # some trainers store the base's
        }
    }
    options = ("--precisions", "fp32", "--no-compare")
    for repo in ("someone/lora", "base/tiny"):
        done = run("export", "run", repo, "--out", tmp_path / Path(repo).name, *options)
        assert done.returncode == 0, done.stderr
    graphs = {(tmp_path / name / "onnx/model.onnx").read_bytes() for name in ("lora", "tiny")}
    assert len(graphs) == 2


def test_a_repository_without_weights_or_tokenizer_json_says_so(hub, run, checkpoint_folder, tmp_path):
    files = files_of(checkpoint_folder)
    hub.repos["base/none"] = {"main": {name: files[name] for name in ("config.json", "tokenizer.json")}}
    arguments = ("--out", tmp_path / "out", "--precisions", "fp32", "--no-compare")
    assert "neither model.safetensors nor pytorch_model.bin" in one_line(run("export", "run", "base/none", *arguments))
    del files["tokenizer.json"]
    hub.repos["base/spm"] = {"main": files | {"tokenizer.model": b"sentencepiece"}}
    assert "has a tokenizer.model and no tokenizer.json" in one_line(run("export", "run", "base/spm", *arguments))
