"""From a run onward: extended, branched off, ended by tokens, epochs, hours or patience."""

import json
import math

import pytest
import torch

from train import step_actions
from train.config import ScheduleSection
from train.errors import RecipeError, RunError
from train.loop import train
from train.resume import branch_run, resume_run
from train.run.folder import RunFolder
from train.run.metrics import read_metrics
from train.schedule import ENDLESS, end_in_time, in_steps

LONGER = {"steps": 30, "warmup_steps": 4, "decay_steps": 8}


def losses(run):
    return [line["loss"] for line in read_metrics(run.folder.metrics)]


def rates(run):
    return [line["lr"] for line in read_metrics(run.folder.metrics)]


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def states(run):
    return run.folder.states.steps()


def test_an_extended_run_is_the_run_that_was_longer_from_the_start(tiny_run, capsys):
    longer, run = tiny_run("longer", schedule=LONGER), tiny_run()
    train(longer)
    train(run)
    ended = weights(run.folder.checkpoint)
    extended = resume_run(run.folder, ["schedule.steps=30", "schedule.decay_steps=8"])
    assert extended.step == 15  # before the decay
    kept = run.folder.path / "checkpoint-step-00000020"
    assert f"the model of step 20 is kept as {kept}" in capsys.readouterr().err
    assert weights(kept) == ended
    assert states(extended) == [10, 15]
    train(extended)
    assert losses(extended) == losses(longer)
    assert weights(extended.folder.checkpoint) == weights(longer.folder.checkpoint)


def test_a_run_remembers_that_it_was_extended(tiny_run):
    run = tiny_run()
    train(run)
    train(resume_run(run.folder, ["schedule.steps=30"]), stop_at=27)
    resumed = resume_run(run.folder)
    assert (resumed.step, resumed.schedule.steps) == (27, 30)
    assert train(resumed)["finished"]
    assert json.loads((run.folder.path / "run.json").read_text())["recipe"]["schedule"]["steps"] == 30


def test_a_run_can_be_shortened_before_its_decay(tiny_run):
    run, shorter = tiny_run(schedule=LONGER), tiny_run("shorter", schedule={"decay_steps": 5})
    train(run, stop_at=12)
    train(shorter)
    resumed = resume_run(run.folder, ["schedule.steps=20", "schedule.decay_steps=5"])
    assert resumed.step == 12
    train(resumed)
    assert losses(resumed) == losses(shorter)


def test_without_a_common_past_a_state_must_be_named(tiny_run):
    run = tiny_run(schedule={"decay_steps": 16, "decay": "cosine"})  # it falls from the first step after the warm-up
    train(run)
    overrides = ["schedule.warmup_steps=0", "schedule.steps=30", "schedule.decay_steps=10"]
    with pytest.raises(RunError, match=r"differ from step 1 on; name one .* as --from-step: 4, 10, 20$"):
        resume_run(run.folder, overrides)
    with pytest.raises(RunError, match=r"has no state of step 7; it has 4, 10, 20$"):
        resume_run(run.folder, overrides, from_step=7)
    resumed = resume_run(run.folder, overrides, from_step=20)
    train(resumed)
    assert rates(resumed)[19:21] == pytest.approx([1e-2 * (1 + math.cos(math.pi * 15 / 16)) / 2, 1e-2])
    assert len(losses(resumed)) == 30


def test_a_run_ends_where_its_decay_was_when_no_earlier_state_is_asked_for(tiny_run):
    """A run that was stopped in its decay continues there, as long as nobody changes its schedule."""
    run = tiny_run()
    train(run, stop_at=18)
    assert resume_run(run.folder).step == 18
    assert resume_run(run.folder, ["machine.threads=2", "run.keep_last=1"]).step == 18


def test_a_branch_leaves_its_origin_as_it_is(tiny_run, tmp_path):
    origin, longer = tiny_run(), tiny_run("longer", schedule=LONGER)
    train(origin)
    train(longer)
    before = {path: path.read_bytes() for path in origin.folder.path.rglob("*") if path.is_file()}
    overrides = ["schedule.steps=30", "schedule.decay_steps=8"]
    branch = branch_run(RunFolder(origin.folder.path), RunFolder(tmp_path / "branch"), overrides)
    assert branch.step == 15
    train(branch)
    assert losses(branch) == losses(longer)
    assert weights(branch.folder.checkpoint) == weights(longer.folder.checkpoint)
    assert {path: path.read_bytes() for path in origin.folder.path.rglob("*") if path.is_file()} == before
    record = json.loads((branch.folder.path / "run.json").read_text())
    assert record["branched_from"] == {"run": str(origin.folder.path), "step": 15}
    with pytest.raises(RunError, match="branch exists"):
        branch_run(origin.folder, RunFolder(tmp_path / "branch"))


def test_a_branch_may_learn_other_text_at_another_rate(tiny_run, tmp_path):
    (tmp_path / "book.txt").write_text("<|endoftext|>".join(f"the cat sat on mat {n}." * 9 for n in range(200)))
    origin = tiny_run()
    train(origin)
    overrides = [f"data.source={tmp_path / 'book.txt'}", "optimizer.lr=5e-3", "schedule.decay_steps=10"]
    branch = branch_run(origin.folder, RunFolder(tmp_path / "branch"), overrides, from_step=10)
    train(branch)
    assert losses(branch)[:10] == losses(origin)[:10]
    assert losses(branch)[10:] != losses(origin)[10:]
    assert rates(branch)[10] == 5e-3
    with pytest.raises(RecipeError, match="only machine, schedule, run, data, optimizer can change"):
        branch_run(origin.folder, RunFolder(tmp_path / "other"), ["tokenizer.vocab_size=300"])
    assert not (tmp_path / "other").exists()


EPOCH = {"batch_size": 4, "epoch_rows": 50, "epoch_tokens": 1000.0}


@pytest.mark.parametrize(
    ("length", "steps"),
    [({"steps": 7}, 7), ({"epochs": 1}, 13), ({"epochs": 2}, 25), ({"tokens": 800}, 10), ({"tokens": 801}, 11)],
)
def test_tokens_and_epochs_are_a_number_of_steps(length, steps):
    """A step learns 4 of 50 rows, 80 tokens of 1000."""
    assert in_steps(ScheduleSection(**length), **EPOCH) == ScheduleSection(steps=steps)


def test_a_decay_may_be_a_share_of_the_run():
    schedule = in_steps(ScheduleSection(epochs=2, warmup_steps=3, decay_share=0.2), **EPOCH)
    assert schedule == ScheduleSection(steps=25, warmup_steps=3, decay_steps=5)
    with pytest.raises(RecipeError, match="exceed the 10 steps"):
        in_steps(ScheduleSection(tokens=800, decay_steps=11), **EPOCH)


@pytest.mark.parametrize(
    ("decay", "decided_at", "steps"),
    [({"decay_share": 0.25}, 269, 359), ({"decay_steps": 50}, 309, 359), ({}, 359, 359)],
)
def test_a_run_of_one_hour_ends_within_the_hour(decay, decided_at, steps):
    """Steps of ten seconds: 360 fit."""
    schedule = ScheduleSection(hours=1, **decay)
    assert in_steps(schedule, **EPOCH).steps == ENDLESS
    decided = [end_in_time(schedule, step, step * 10.0) for step in range(1, 361)]
    first = next(step for step, ending in enumerate(decided, start=1) if ending is not None)
    assert first == pytest.approx(decided_at, abs=1)
    assert decided[first - 1].steps == pytest.approx(steps, abs=1)
    assert decided[first - 1].steps * 10 <= 3600


def test_a_run_of_some_hours_decays_in_time_and_resumes(tiny_run, monkeypatch):
    """On a clock that goes on by a second a step."""
    schedule = {"steps": 0, "hours": 30 / 3600, "decay_steps": 0, "decay_share": 0.3}
    monkeypatch.setattr("train.run.run.Run.seconds", property(lambda run: float(run.step)))
    undisturbed, stopped = tiny_run("undisturbed", schedule=schedule), tiny_run("stopped", schedule=schedule)
    outcome = train(undisturbed)
    assert (outcome["finished"], outcome["step"]) == (True, 29)
    assert rates(undisturbed)[3:20] == [1e-2] * 17
    assert rates(undisturbed)[-1] == pytest.approx(1e-2 / 9)
    train(stopped, stop_at=24)
    assert train(resume_run(stopped.folder))["step"] == 29
    assert losses(stopped) == losses(undisturbed)


def test_a_length_in_an_override_replaces_the_recipes(tiny_run):
    run = tiny_run()
    train(run, stop_at=3)
    epoch = run.batches.epoch
    resumed = resume_run(run.folder, [f"schedule.tokens={epoch.tokens * 22 * 2 / epoch.rows}"])
    assert (resumed.recipe.schedule.steps, resumed.schedule.steps) == (0, 22)


def test_an_epoch_reads_every_row_once(tiny_run):
    run = tiny_run(schedule={"steps": 0, "epochs": 1, "warmup_steps": 0, "decay_steps": 0}, data={"batch_size": 1})
    firsts = [tuple(run.batches.batch(step).input_ids[0].tolist()) for step in range(run.schedule.steps)]
    assert len(set(firsts)) == run.schedule.steps == run.batches.epoch.rows
    tokens = sum(int((run.batches.batch(step).labels >= 0).sum()) for step in range(run.schedule.steps))
    assert tokens == run.batches.epoch.tokens


def test_a_run_stops_when_evaluations_find_nothing_better(tiny_run, monkeypatch):
    found = iter([3.0, 2.0, 2.5, 2.1, 1.0])
    monkeypatch.setattr(step_actions, "held_out_loss", lambda *_, **__: next(found))
    sections = {"run": {"evaluate_every": 2, "patience": 2}, "schedule": {"decay_steps": 0}}
    run = tiny_run(**sections)
    outcome = train(run)
    assert (outcome["step"], outcome["finished"], outcome["stopped_by"]) == (8, False, None)
    assert states(run) == [8]
    assert train(resume_run(run.folder))["step"] == 8  # it knows
    assert train(resume_run(run.folder, ["run.patience=0"]), stop_at=9)["step"] == 9


def test_dropout_is_drawn_anew_at_each_step_and_alike_after_resuming(tiny_run):
    sections = {"model": {"preset": "tiny", "dropout": 0.2}}
    from tests.train.conftest import TINY_SHAPE

    sections["model"]["overrides"] = TINY_SHAPE
    plain, undisturbed, stopped = tiny_run("plain"), tiny_run("undisturbed", **sections), tiny_run("run", **sections)
    train(plain)
    train(undisturbed)
    train(stopped, stop_at=7)
    train(resume_run(stopped.folder))
    assert losses(undisturbed) != losses(plain)
    assert losses(stopped) == losses(undisturbed)
    assert weights(stopped.folder.checkpoint) == weights(undisturbed.folder.checkpoint)


def test_dropout_leaves_out_its_share_while_training_alone(tiny_run):
    from tests.train.conftest import TINY_SHAPE

    run = tiny_run(model={"preset": "tiny", "overrides": TINY_SHAPE, "dropout": 0.25})
    input_ids, *_ = run.batches.batch(0)
    embed = run.model.model.embed_tokens
    whole = embed.weight[input_ids]
    dropped = embed(input_ids)
    assert (dropped == 0).float().mean() == pytest.approx(0.25, abs=0.03)
    torch.testing.assert_close(dropped[dropped != 0], whole[dropped != 0] / 0.75)
    with torch.no_grad():
        assert torch.equal(embed(input_ids), whole)
        assert torch.equal(run.model(input_ids), run.model(input_ids))
