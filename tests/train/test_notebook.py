"""The notebook for Colab, cell by cell, in two sessions; a folder stands for Google Drive, stubs for IPython."""

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from train.run.metrics import read_metrics

REPOSITORY = Path(__file__).parents[2]
NOTEBOOK = REPOSITORY / "docs" / "train.ipynb"
TINY = ["data.documents=300", "schedule.steps=6", "schedule.warmup_steps=0", "schedule.decay_steps=2"]
TINY += ["run.evaluate_every=0", "run.sample_every=0", "machine.threads=1", "data.context=64"]


def cells():
    """The source and the tags of each cell of code."""
    notebook = json.loads(NOTEBOOK.read_text())
    return [
        ("".join(cell["source"]), cell["metadata"].get("tags", []))
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]


def test_the_notebook_is_committed_without_outputs():
    notebook = json.loads(NOTEBOOK.read_text())
    assert notebook["nbformat"] == 4
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook["cells"])


@pytest.fixture
def colab(monkeypatch):
    """What Colab has and this machine has not. Returns what was mounted, and what was displayed."""
    mounted, shown = [], []
    drive = types.SimpleNamespace(mount=mounted.append)
    display = types.ModuleType("IPython.display")
    display.Image = lambda data: data
    display.display = shown.append
    display.clear_output = lambda wait: None
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(drive=drive))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.chdir(REPOSITORY)
    return mounted, shown


def session(**parameters):
    """Run all cells in a new namespace, with other values of the parameters. Returns the namespace."""
    names = {}

    def shell(line):
        command = line.format(**names).split()
        assert command[0] == "python"
        names.setdefault("printed", []).append(
            subprocess.run([sys.executable, *command[1:]], check=True, capture_output=True, text=True).stdout
        )

    names["shell"] = shell
    for source, tags in cells():
        if "colab" in tags:
            continue
        lines = [f"shell({line[1:]!r})" if line.startswith("!") else line for line in source.splitlines()]
        exec("\n".join(lines), names)
        if "parameters" in tags:
            assert parameters.keys() <= names.keys()
            names |= parameters
    return names


@pytest.mark.slow  # six processes that load torch
def test_a_second_session_goes_on_where_the_first_was_cut_off(colab, tmp_path, capsys):
    mounted, shown = colab
    parameters = {"DRIVE": str(tmp_path), "SAVE_EVERY": 2}
    first = session(**parameters, CHANGES=TINY, MORE=["--stop-at", "3"])
    again = session(**parameters, CHANGES=TINY)
    assert (first["exit_code"], again["exit_code"]) == (0, 0)
    assert mounted == [str(tmp_path)] * 2
    assert shown
    assert all(picture.startswith(b"\x89PNG") for picture in shown)
    run = tmp_path / "MyDrive" / "smoltext" / "stories"
    assert [one["from_step"] for one in json.loads((run / "run.json").read_text())["sessions"]] == [0, 3]
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "MyDrive" / "smoltext" / "stories-bundle" / "onnx" / "model_int8.onnx").is_file()
    assert again["printed"][-1].strip()
    assert "the model is" in capsys.readouterr().out


def test_a_run_that_fails_says_why_in_its_cell(colab, tmp_path, capsys):
    from train.run.live import train_live

    _, shown = colab
    assert train_live("resume", str(tmp_path / "nothing"), run=tmp_path / "nothing") == 1
    assert shown == []
    assert "is not the folder of a run" in capsys.readouterr().out
