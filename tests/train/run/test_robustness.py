"""What a run survives: signals, a kill at any moment, a cut-off state, a full disk, a loss that is no number."""

import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model import load_checkpoint
from model.errors import CheckpointError
from train import commands, loop, step_actions
from train.errors import RunError
from train.loop import train, training_step
from train.resume import resume_run
from train.run import state
from train.run.metrics import read_metrics
from train.run.run import Run

REPOSITORY = Path(__file__).parents[3]


def losses(run):
    return [line["loss"] for line in read_metrics(run.folder.metrics)]


def states(run):
    return sorted(path.name for path in (run.folder.path / "state").iterdir())


def shard(run, step):
    [path] = (run.folder.path / "state" / f"step-{step:08d}").glob("*.safetensors")
    return path


def break_file(path, kept_bytes):
    path.write_bytes(path.read_bytes()[:kept_bytes])


def take_steps(run, count):
    for _ in range(count):
        training_step(run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_exits_with_the_shells_code(tiny_run, monkeypatch, number):
    from argparse import Namespace

    run = tiny_run()
    run.save()  # before the first step: that is a state too
    taken = loop.training_step

    def step_and_signal(run):
        metrics = taken(run)
        if run.step == 3:
            os.kill(os.getpid(), number)
        return metrics

    monkeypatch.setattr(loop, "training_step", step_and_signal)
    assert (
        commands.resume(Namespace(run=run.folder.path, set=[], from_step=None, stop_at=None, json=False))
        == 128 + number
    )
    assert states(run) == ["step-00000000", "step-00000003"]
    assert resume_run(run.folder).step == 3


def test_the_last_states_are_kept_and_the_best_model(tiny_run):
    run = tiny_run(run={"save_every": 4, "keep_last": 3, "evaluate_every": 5}, schedule={"steps": 16})
    train(run)
    # And that of step 11, before the decay.
    assert states(run) == ["step-00000008", "step-00000011", "step-00000012", "step-00000016"]
    held_out = {
        line["step"]: line["held_out_loss"] for line in read_metrics(run.folder.metrics) if "bits_per_byte" in line
    }
    assert list(held_out) == [5, 10, 15, 16]
    assert min(held_out, key=held_out.get) == 16
    assert (run.folder.best / "model.safetensors").read_bytes() == (
        run.folder.checkpoint / "model.safetensors"
    ).read_bytes()


def test_a_worse_model_does_not_become_the_best(tiny_run, monkeypatch):
    run = tiny_run(
        run={"evaluate_every": 1, "save_every": 0}, schedule={"steps": 3, "warmup_steps": 0, "decay_steps": 0}
    )
    worse = iter([2.0, 1.0, 3.0])
    monkeypatch.setattr("train.step_actions.held_out_loss", lambda *_, **__: next(worse))
    kept = []
    monkeypatch.setattr(type(run), "save_model", lambda self, folder: kept.append((self.step, folder.name)))
    train(run)
    assert kept == [(1, "best"), (2, "best"), (3, "checkpoint")]


def test_the_end_is_saved_even_if_nothing_else_is(tiny_run):
    run = tiny_run(run={"save_every": 0, "evaluate_every": 0}, schedule={"steps": 6, "decay_steps": 0})
    train(run)
    assert states(run) == ["step-00000006"]
    saved = load_checkpoint(run.folder.checkpoint).state_dict()
    torch.testing.assert_close(saved, run.model.state_dict(), rtol=0, atol=0)
    assert resume_run(run.folder).step == 6


def test_the_state_before_the_decay_is_saved_too_so_that_the_run_can_be_extended(tiny_run):
    run = tiny_run(run={"save_every": 0, "evaluate_every": 0}, schedule={"steps": 6, "warmup_steps": 0})
    train(run)
    assert states(run) == ["step-00000001", "step-00000006"]
    assert resume_run(run.folder, ["schedule.steps=8"]).step == 1


def test_a_signal_that_comes_while_the_end_is_saved_waits_for_it(tiny_run, monkeypatch):
    """Of several processes, the others may be told to stop a little later than the one that told them."""
    run, save = tiny_run(), Run.save

    def signal_and_save(run):
        if run.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        save(run)

    monkeypatch.setattr(Run, "save", signal_and_save)
    train(run, stop_at=3)
    assert states(run) == ["step-00000003"]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_disk_that_cannot_flush_folders_will_do(tiny_run, monkeypatch, code):
    """Google Drive's in Colab."""
    flush = os.fsync

    def flush_files_alone(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))
        flush(handle)

    monkeypatch.setattr(os, "fsync", flush_files_alone)
    run = tiny_run()
    run.save()
    assert states(run) == ["step-00000000"]


def test_an_end_that_was_skipped_is_saved_too_unless_the_weights_are_broken(tiny_run, monkeypatch):
    gradients = loop._accumulate_gradients
    monkeypatch.setattr(
        loop, "_accumulate_gradients", lambda run, *rest: gradients(run, *rest) + (0, torch.inf)[run.step == 5]
    )
    sections = {"schedule": {"steps": 6, "decay_steps": 0}, "run": {"save_every": 4}}
    run, broken = (tiny_run(name, **sections, optimizer={"on_non_finite": "skip"}) for name in ("run", "broken"))
    train(run)
    assert states(run) == ["step-00000004", "step-00000006"]
    train(broken, stop_at=5)
    with torch.no_grad():
        broken.model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(RunError, match="weights are not finite at step 6"):
        train(broken)
    assert states(broken) == ["step-00000004", "step-00000005"]


def test_a_signal_ends_the_run_within_a_micro_batch(tiny_run, monkeypatch):
    """A step of many micro-batches takes minutes; what was added up of it is dropped, and done again later."""
    sections = {"data": {"batch_size": 8}, "machine": {"micro_batch_size": 1}, "run": {"evaluate_every": 0}}
    undisturbed, run = tiny_run("undisturbed", **sections), tiny_run(**sections)
    train(undisturbed)
    passes, forward = [], run.loss.forward

    def forward_and_signal(*batch):
        passes.append(run.step)
        if len(passes) == 3 * 8 + 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(*batch)

    monkeypatch.setattr(run.loss, "forward", forward_and_signal)
    outcome = train(run)
    assert (outcome["step"], outcome["finished"], outcome["stopped_by"]) == (3, False, "SIGTERM")
    assert len(passes) == 3 * 8 + 5
    assert states(run) == ["step-00000003"]
    resumed = resume_run(run.folder)
    train(resumed)
    assert losses(resumed) == losses(undisturbed)
    weights = [(one.folder.checkpoint / "model.safetensors").read_bytes() for one in (resumed, undisturbed)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("step", [10, 20])
def test_a_signal_ends_an_evaluation_which_resuming_repeats(tiny_run, monkeypatch, step):
    """Also at the last step, so a run that was interrupted there is not finished."""
    sections = {"data": {"documents": 1000, "held_out": 0.2}, "run": {"sample_every": 10}}
    undisturbed, run = tiny_run("undisturbed", **sections), tiny_run(**sections)
    train(undisturbed)
    evaluate = step_actions.held_out_loss

    def evaluate_and_signal(*arguments, **options):
        if run.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(step_actions, "held_out_loss", evaluate_and_signal)
        outcome = train(run)
    assert (outcome["step"], outcome["finished"]) == (step, False)
    assert "held_out_loss" not in read_metrics(run.folder.metrics)[-1]
    train(resume_run(run.folder))
    lines = [
        [{key: line.get(key) for key in ("step", "loss", "held_out_loss")} for line in read_metrics(one.folder.metrics)]
        for one in (run, undisturbed)
    ]
    assert lines[0] == lines[1]
    assert len(list((run.folder.path / "samples").iterdir())) == 2


@pytest.mark.parametrize("kept_bytes", [0, 100, 5000])
def test_a_cut_off_state_gives_way_to_the_one_before(tiny_run, capsys, kept_bytes):
    undisturbed, run = tiny_run("undisturbed"), tiny_run()
    train(undisturbed)
    train(run)
    break_file(shard(run, 20), kept_bytes)
    resumed = resume_run(run.folder)
    warning = capsys.readouterr().err
    assert "step-00000020 is truncated or broken (shard-" in warning
    assert "trying the one before" in warning
    assert resumed.step == 15
    train(resumed)
    assert losses(resumed) == losses(undisturbed)


def test_a_state_whose_bytes_are_scrambled_gives_way_too(tiny_run, capsys):
    run = tiny_run()
    train(run)
    path = shard(run, 20)
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert resume_run(run.folder).step == 15
    for step in (10, 15):
        (run.folder.path / "state" / f"step-{step:08d}" / "state.json").write_text("{")
    with pytest.raises(RunError, match=r"^every state in [^\n]* is truncated or broken; the run cannot be resumed$"):
        resume_run(run.folder)


def test_one_flipped_bit_gives_way_to_the_state_before(tiny_run):
    """Anywhere in any file of a state: in a weight, in a header, in the record of the state."""
    run = tiny_run()
    train(run)
    taken = []
    for path in (shard(run, 20), run.folder.path / "state" / "step-00000020" / "state.json"):
        whole = path.read_bytes()
        for number in range(12):
            broken = bytearray(whole)
            broken[len(whole) * number // 12] ^= 1 << number % 8
            path.write_bytes(broken)
            taken.append(resume_run(run.folder).step)
        path.write_bytes(whole)
    assert taken == [15] * 24
    assert resume_run(run.folder).step == 20


def test_a_state_is_written_a_few_tensors_at_a_time(tiny_run, monkeypatch):
    """The writer holds a file twice in memory: in one file, a state would double the memory of the run."""
    monkeypatch.setattr(state, "FILE_BYTES", 50_000)
    run = tiny_run()
    take_steps(run, 2)
    run.save()
    sizes = [path.stat().st_size for path in (run.folder.path / "state" / "step-00000002").glob("*.safetensors")]
    assert len(sizes) >= 6
    assert max(sizes) < 50_000 + 4 * 512 * 32  # the vocabulary's table is larger, and has a file of its own
    resumed = resume_run(run.folder)
    torch.testing.assert_close(resumed.model.state_dict(), run.model.state_dict(), rtol=0, atol=0)


def test_a_state_of_another_model_is_an_error(tiny_run):
    narrow, wide = tiny_run("narrow"), tiny_run("wide", model={"overrides": {"hidden_size": 64, "vocab_size": 512}})
    narrow.save()
    with pytest.raises(RunError, match="is the state of another model"):
        narrow.folder.states.load(wide.model, wide.optimizers, wide.ranks, data=narrow.corpus.fingerprint())


def test_a_full_disk_loses_nothing_saved(tiny_run, monkeypatch):
    """Every write of a save may be the one that the disk has no room for."""
    run = tiny_run()
    take_steps(run, 2)
    run.save()
    take_steps(run, 2)
    before = {path: path.read_bytes() for path in run.folder.path.rglob("*") if path.is_file()}

    def no_room(*_, **__):
        raise OSError(28, "No space left on device")

    for owner, name in ((state.dcp, "save"), (state, "write_json"), (state, "_flush"), (Path, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, no_room)
            with pytest.raises(
                RunError, match=r"step 4 could not be written: .*No space.*; the state of step 2 stands"
            ):
                run.save()
        assert {path: path.read_bytes() for path in run.folder.path.rglob("*") if path.is_file()} == before
    run.save()
    assert resume_run(run.folder).step == 4


@pytest.fixture
def limited_files():
    """Limits the bytes of every file that is written, as a full disk does: the system itself refuses more."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(("limit", "complaint"), [(300_000, "the state of step 4 could not be"), (100_000, "File too")])
def test_a_disk_that_the_system_calls_full_loses_nothing_saved(tiny_run, limited_files, limit, complaint):
    """A state takes 0.34 MB here, a checkpoint 0.11."""
    run = tiny_run()
    take_steps(run, 2)
    run.save()
    checkpoint = (run.folder.checkpoint / "model.safetensors").read_bytes()
    assert len(checkpoint) > 100_000
    take_steps(run, 2)
    limited_files(limit)
    with pytest.raises((CheckpointError, RunError), match=complaint):
        run.save() if limit > 200_000 else run.save_model(run.folder.checkpoint)
    assert (run.folder.checkpoint / "model.safetensors").read_bytes() == checkpoint
    assert states(run) == ["step-00000002"]
    limited_files(10_000_000)
    assert resume_run(run.folder).step == 2


def test_a_loss_that_is_no_number_stops_the_run_and_spares_what_was_saved(tiny_run):
    run = tiny_run()
    run.save()
    with torch.no_grad():
        run.model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(RunError, match=r"the loss is nan .* at step 1; lower optimizer\.lr"):
        train(run)
    assert torch.isfinite(load_checkpoint(run.folder.checkpoint).lm_head.weight).all()


def test_a_loss_that_is_no_number_is_skipped_if_the_recipe_says_so(tiny_run, monkeypatch, capsys):
    run = tiny_run(optimizer={"on_non_finite": "skip"})
    gradients = loop._accumulate_gradients
    monkeypatch.setattr(
        loop, "_accumulate_gradients", lambda run, *rest: gradients(run, *rest) + (0, torch.inf)[run.step == 2]
    )
    before = []
    take = loop.training_step

    def noting(run):
        before.append([parameter.detach().clone() for parameter in run.model.parameters()])
        return take(run)

    monkeypatch.setattr(loop, "training_step", noting)
    assert train(run)["finished"]
    lines = read_metrics(run.folder.metrics)
    assert [line["step"] for line in lines if "skipped" in line] == [3]
    assert (lines[2]["loss"], lines[2]["grad_norm"]) == (None, None)
    assert all(torch.equal(one, other) for one, other in zip(before[2], before[3], strict=True))
    assert "warning: the loss is inf" in capsys.readouterr().err


def test_weights_beyond_help_stop_the_run_even_so(tiny_run):
    run = tiny_run(optimizer={"on_non_finite": "skip"}, schedule={"steps": 100})
    with torch.no_grad():
        run.model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(RunError, match="at step 20, as at the 19 steps before"):
        train(run)


@pytest.mark.slow
@pytest.mark.parametrize("data", ["tokenized", "streamed"])
def test_ten_kills_at_random_moments_change_no_bit(tmp_path, data):
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("kill_often.py")), str(tmp_path), data],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["kills"] == 10
    assert report["same_weights"]
    assert report["same_losses"]
    assert report["leftovers"] == []
