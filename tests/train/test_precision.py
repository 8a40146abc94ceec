"""Number formats by device, the loss scale of float16, and torch.compile where there is no compiler."""

import dataclasses

import pytest
import torch

from train import loop
from train.config import MachineSection
from train.distributed.parallel import parallelize
from train.distributed.ranks import Ranks
from train.errors import RecipeError, RunError
from train.loop import train, training_step
from train.loss import NextTokenLoss
from train.precision import LossScale, choose_precision
from train.resume import resume_run
from train.run.metrics import read_metrics

CUDA = torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch):
    """Pretends that there is a GPU of a compute capability."""

    def pretend(name, capability):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)

    return pretend


@pytest.mark.parametrize(
    ("name", "capability", "best"),
    [
        ("Tesla P100", (6, 0), "fp32"),
        ("Tesla V100", (7, 0), "fp16"),
        ("Tesla T4", (7, 5), "fp16"),
        ("NVIDIA A100", (8, 0), "bf16"),
        ("NVIDIA GeForce RTX 4090", (8, 9), "bf16"),
        ("NVIDIA H100", (9, 0), "bf16"),
    ],
)
def test_the_best_precision_is_what_the_gpu_computes_itself(gpu, name, capability, best):
    gpu(name, capability)
    assert choose_precision("auto", CUDA) == best
    assert choose_precision("fp32", CUDA) == "fp32"
    if capability < (8, 0):
        for emulated in ("bf16", "tf32"):
            with pytest.raises(RecipeError, match=f"{emulated}, which {name} does not compute itself: take auto"):
                choose_precision(emulated, CUDA)


def test_a_cpu_computes_in_float32_unless_told_otherwise():
    cpu = torch.device("cpu")
    assert [choose_precision(wanted, cpu) for wanted in ("auto", "bf16", "fp16")] == ["fp32", "bf16", "fp16"]
    with pytest.raises(RecipeError, match="tf32"):
        choose_precision("tf32", cpu)


def test_a_loss_scale_halves_at_an_overflow_and_doubles_after_many_sound_steps():
    scale = LossScale(factor=8.0)
    scale.update(is_finite=False)
    assert dataclasses.astuple(scale) == (4.0, 0, 1)
    for _ in range(LossScale.GROWTH_STEPS - 1):
        scale.update(is_finite=True)
    assert scale.factor == 4.0
    scale.update(is_finite=True)
    assert dataclasses.astuple(scale) == (8.0, 0, 1)
    scale = LossScale(factor=LossScale.LARGEST, sound_steps=LossScale.GROWTH_STEPS - 1)
    scale.update(is_finite=True)
    assert scale.factor == LossScale.LARGEST


def curve(run):
    return [line["loss"] for line in read_metrics(run.folder.metrics)]


def test_float16_learns_like_float32(tiny_run):
    exact, rough = tiny_run("fp32"), tiny_run("fp16", machine={"precision": "fp16"})
    train(exact)
    outcome = train(rough)
    assert (outcome["overflows"], outcome["loss_scale"]) == (0, 2.0**16)
    assert curve(rough) == pytest.approx(curve(exact), rel=0.01)
    assert curve(rough) != curve(exact)
    assert {p.dtype for p in rough.model.parameters()} == {torch.float32}


def test_steps_that_overflow_are_skipped_and_counted(tiny_run):
    """The first factors are too large for the gradients' float16, so steps are skipped until one is not."""
    run, exact = tiny_run(machine={"precision": "fp16"}), tiny_run("fp32")
    run.loss_scale.factor = 2.0**32
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    skipped = 0
    while training_step(run).get("skipped"):
        skipped += 1
        torch.testing.assert_close(run.model.state_dict(), before, rtol=0, atol=0)
    assert 3 < skipped < 20
    assert run.loss_scale.overflows == skipped
    assert run.loss_scale.factor == 2.0 ** (32 - skipped)
    exact.step = skipped
    training_step(exact)
    # AdamW's first step divides a gradient by its own size, so rounding turns the sign of the smallest.
    pairs = zip(run.model.parameters(), exact.model.parameters(), strict=True)
    same = torch.cat([torch.isclose(ours, theirs, rtol=0.1, atol=1e-3).flatten() for ours, theirs in pairs])
    assert same.float().mean() > 0.995


def test_a_loss_scale_is_saved_with_the_state(tiny_run):
    undisturbed, run = (tiny_run(name, machine={"precision": "fp16"}) for name in ("undisturbed", "run"))
    for one in (undisturbed, run):
        one.loss_scale.factor = 2.0**28
    train(undisturbed)
    train(run, stop_at=9)
    lines = read_metrics(run.folder.metrics)
    assert lines[-1]["overflows"] > 0
    resumed = resume_run(run.folder)
    assert resumed.loss_scale == run.loss_scale
    train(resumed)
    assert curve(resumed) == curve(undisturbed)
    assert resumed.loss_scale == undisturbed.loss_scale


def test_weights_beyond_help_stop_a_run_in_float16(tiny_run):
    run = tiny_run(machine={"precision": "fp16"}, schedule={"steps": 100})
    with torch.no_grad():
        run.model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(RunError, match="at step 20, as at the 19 steps before"):
        train(run)
    assert loop.MAX_SKIPPED_STEPS == 20


@pytest.mark.filterwarnings("ignore")  # of torch's compiler about torch
def test_without_a_compiler_a_run_is_not_compiled(tiny_run, capsys):
    import torch._inductor.config

    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        plain, run = tiny_run("plain"), tiny_run(machine={"compile": True})
    printed = capsys.readouterr().err
    assert "warning: machine.compile is ignored, because torch.compile fails here (" in printed
    assert printed.count("\n") == 1
    assert training_step(run)["loss"] == training_step(plain)["loss"]


@pytest.mark.slow  # the compiler takes some seconds
@pytest.mark.filterwarnings("ignore")  # of torch's compiler about torch
def test_with_a_compiler_it_is(tiny_run, capsys):
    run = tiny_run(machine={"compile": True})
    assert "warning" not in capsys.readouterr().err
    compiled = parallelize(NextTokenLoss(run.model), MachineSection(compile=True), Ranks())
    assert compiled.model.model.layers[0]._compiled_call_impl is not None
