"""Two processes on a CPU (gloo, as torchrun starts them) train as one does, and go on from each other's states."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model import load_checkpoint
from tests.train.conftest import TINY_SHAPE
from train.config import read_recipe
from train.loop import train
from train.resume import resume_run
from train.run.folder import RunFolder
from train.run.metrics import read_metrics
from train.setup import start_run

REPOSITORY = Path(__file__).parents[3]
RECIPE = f"""
[model]
preset = "tiny"
[model.overrides]
{chr(10).join(f"{key} = {value}" for key, value in TINY_SHAPE.items())}
[tokenizer]
vocab_size = 400
[data]
documents = 60
held_out = 0.05
context = 48
batch_size = 4
rows = "document"
[optimizer]
lr = 1e-2
[schedule]
steps = 12
warmup_steps = 4
decay_steps = 5
[run]
evaluate_every = 6
sample_every = 12
save_every = 6
[machine]
device = "cpu"
threads = 1
"""


STEPS, BEFORE_DECAY = 12, 7


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, env=environment)


def train_alone(folder, name, *overrides):
    run = start_run(read_recipe(str(folder / "recipe.toml"), overrides), RunFolder(folder / name))
    train(run)
    return run


def lose_last_state(path):
    """What is left of a run is then of the step before the decay."""
    for file in (path / "state" / f"step-{STEPS:08d}").iterdir():
        file.unlink()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The runs `alone`, `ddp`, `fsdp` and `muon`, and `halfway`: begun by one process, ended by two."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "recipe.toml").write_text(RECIPE)
    train_alone(folder, "alone")
    shutil.copytree(folder / "alone", folder / "halfway")
    lose_last_state(folder / "halfway")
    done = torchrun(Path(__file__).with_name("two_ranks.py"), folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("trying the one before") == 1  # rank 0 alone speaks
    return folder


def curve(path):
    return {line["step"]: line["loss"] for line in read_metrics(path / "metrics.jsonl")}


def last_metrics(path):
    line = read_metrics(path / "metrics.jsonl")[-1]
    return {key: line[key] for key in ("held_out_loss", "bits_per_byte", "grad_norm", "tokens")}


@pytest.mark.parametrize("name", ["ddp", "fsdp", "halfway"])
def test_two_processes_give_the_curve_of_one(folder, name):
    expected = curve(folder / "alone")
    assert len(expected) == STEPS
    assert curve(folder / name) == pytest.approx(expected, abs=1e-4)
    assert last_metrics(folder / name) == pytest.approx(last_metrics(folder / "alone"), rel=1e-3)
    ours, theirs = (load_checkpoint(folder / run / "checkpoint").state_dict() for run in (name, "alone"))
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)
    assert [path.name for path in (folder / name / "samples").iterdir()] == ["step-00000012.txt"]


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_one_process_goes_on_from_the_state_of_two(folder, name):
    lose_last_state(folder / name)
    resumed = resume_run(RunFolder(folder / name))
    assert (resumed.step, resumed.ranks.world_size) == (BEFORE_DECAY, 1)
    train(resumed)
    assert curve(folder / name) == pytest.approx(curve(folder / "alone"), abs=1e-4)
    sessions = json.loads((folder / name / "run.json").read_text())["sessions"]
    assert [(session["from_step"], session["world_size"]) for session in sessions] == [(0, 2), (BEFORE_DECAY, 1)]


def test_muon_over_split_matrices_is_muon(folder):
    """Its iteration is in bfloat16, whose rounding depends on how a matrix is split."""
    alone = train_alone(folder, "muon-alone", "optimizer.name=muon", "schedule.steps=9")
    assert curve(folder / "muon") == pytest.approx(curve(alone.folder.path), rel=0.02)


@pytest.mark.slow
def test_torchrun_runs_the_command_line(folder):
    out = folder / "by-torchrun"
    done = torchrun("-m", "train", "run", folder / "recipe.toml", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    [summary] = done.stdout.splitlines()
    assert json.loads(summary)["finished"]
    assert curve(out) == pytest.approx(curve(folder / "alone"), abs=1e-4)

    refused = torchrun(
        "-m", "train", "run", folder / "recipe.toml", "--out", folder / "odd", "--set", "data.batch_size=3"
    )
    assert refused.returncode != 0
    assert refused.stderr.count("error: 2 processes cannot share data.batch_size 3 evenly") == 1
    assert not (folder / "odd").exists()


def launched(*arguments):
    command = [sys.executable, "-m", "train", *map(str, arguments), "--processes", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.slow
def test_our_launcher_trains_and_passes_a_signal_on(folder):
    out = folder / "launched"
    process = launched("run", folder / "recipe.toml", "--out", out, "--set", "schedule.steps=100000")
    for line in process.stderr:
        if line.startswith("step 6:"):
            process.send_signal(signal.SIGTERM)
            break
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, stderr
    assert "continue with: python -m train resume" in stderr
    expected = {step: loss for step, loss in curve(folder / "alone").items() if step <= 6}
    assert {step: loss for step, loss in curve(out).items() if step <= 6} == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_an_error_of_several_processes_is_one_line(folder):
    refused = launched("run", folder / "recipe.toml", "--out", folder / "odd", "--set", "data.batch_size=3")
    stdout, stderr = refused.communicate(timeout=60)
    assert (refused.returncode, stdout) == (1, "")
    assert stderr.splitlines() == ["error: 2 processes cannot share data.batch_size 3 evenly: make it a multiple of 2"]
    assert not (folder / "odd").exists()


@pytest.mark.slow
def test_processes_whose_launcher_was_killed_stop(folder):
    out = folder / "orphans"
    process = launched("run", folder / "recipe.toml", "--out", out, "--set", "schedule.steps=100000")
    for line in process.stderr:
        if line.startswith("step 6:"):
            process.kill()
            break
    rest = process.stderr.read()  # until the last process has closed it
    assert "stopped at step" in rest
    process.communicate()
