"""The name that a bundle's manifest stores."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("torch")

from export.__main__ import main
from export.bundle import export_bundle
from export.naming import model_name
from export.precisions import parse_precisions
from model import Checkpoint
from model.gguf import GGUFModel


@dataclass
class Folder:
    folder: Path


@pytest.mark.parametrize(
    ("own", "source", "base_model", "name"),
    [
        (None, "runs/demo/checkpoint", None, "demo"),
        (None, "runs/story-teller", None, "story-teller"),
        (None, "final/", None, None),
        ("HuggingFaceTB/SmolLM2-135M", "x", None, "SmolLM2-135M"),
        ("C:\\models\\mouse\\", "x", None, "mouse"),
        ("./", "runs/mouse", None, "mouse"),
        ("", "runs/mouse", None, "mouse"),
        (7, "runs/mouse", None, "mouse"),
        ("o/checkpoint", "runs/mouse", None, "mouse"),
        ("other/name", "o/m", "HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct"),
        ("m" * 500, "x", None, "m" * 100),
    ],
)
def test_a_model_is_called_by_its_id_or_its_config_or_its_folder(
    tmp_path, monkeypatch, own, source, base_model, name
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({} if own is None else {"_name_or_path": own}))
    assert model_name(Folder(tmp_path), source, base_model) == (name or tmp_path.name)


def test_a_gguf_file_is_called_by_its_general_name(monkeypatch) -> None:
    model = object.__new__(GGUFModel)
    for stored, name in ((None, "mouse-q8"), ("The Mouse", "The Mouse"), (5, "mouse-q8")):
        model._file = type("File", (), {"metadata": {} if stored is None else {"general.name": stored}})()
        assert model_name(model, "models/mouse-q8.gguf") == name


def test_the_manifest_has_the_name_and_inspect_and_the_card_show_it(shared_data, tmp_path, capsys) -> None:
    checkpoint, out = Checkpoint(shared_data / "stories260k"), tmp_path / "bundle"
    export_bundle(
        checkpoint,
        out,
        parse_precisions("fp32"),
        source="runs/stories/checkpoint",
        calibration_tokens=0,
        progress=False,
    )
    assert json.loads((out / "manifest.json").read_text())["name"] == model_name(checkpoint, "runs/stories/checkpoint")
    arguments = ["run", str(shared_data / "stories260k"), "--out", str(out), "--precisions", "fp32", "--no-compare"]
    assert main([*arguments, "--name", "The storyteller", "--calibration-tokens", "0"]) == 0
    assert "# The storyteller, as ONNX" in (out / "README.md").read_text()
    capsys.readouterr()
    assert main(["inspect", str(out)]) == 0
    assert capsys.readouterr().out.startswith("The storyteller, from ")


def test_a_bundle_of_an_older_version_has_no_name(tiny_bundle, tmp_path, capsys) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "old")
    manifest = json.loads((tmp_path / "old/manifest.json").read_text())
    manifest.pop("name", None)
    (tmp_path / "old/manifest.json").write_text(json.dumps(manifest))
    assert main(["inspect", str(tmp_path / "old")]) == 0
    assert capsys.readouterr().out.startswith("from ")
