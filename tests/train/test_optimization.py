"""Laws of one update: schedules, losses, gradients, optimizers."""

import math

import pytest
import torch
import torch.nn.functional as F

from model import ModelConfig, TransformerModel
from train.config import MachineSection, OptimizerSection, ScheduleSection
from train.distributed.parallel import parallelize
from train.distributed.ranks import Ranks
from train.labels import IGNORE_INDEX
from train.loop import training_step
from train.loss import NextTokenLoss
from train.optimizer import build_optimizers, decay_groups
from train.schedule import lr_factor

SCHEDULE = ScheduleSection(steps=100, warmup_steps=10, decay_steps=30)


def test_the_rate_rises_stays_and_falls():
    factors = [lr_factor(step, SCHEDULE) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert factors[10:71] == [1.0] * 61
    assert factors[70:] == pytest.approx([n / 30 for n in range(30, 0, -1)])
    assert all(0 < factor <= 1 for factor in factors)


def test_a_cosine_passes_its_knots():
    cosine = ScheduleSection(steps=110, warmup_steps=10, decay_steps=100, decay="cosine", final=0.1)
    knots = {9: 1.0, 10: 1.0, 35: 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2, 60: 0.55, 110: 0.1}
    assert {step: lr_factor(step, cosine) for step in knots} == pytest.approx(knots)
    falling = [lr_factor(step, cosine) for step in range(10, 110)]
    assert falling == sorted(falling, reverse=True)


def test_a_line_ends_at_its_final_share():
    schedule = ScheduleSection(steps=10, decay_steps=5, final=0.2)
    assert [lr_factor(step, schedule) for step in range(4, 11)] == pytest.approx([1, 1, 0.84, 0.68, 0.52, 0.36, 0.2])


@pytest.mark.parametrize("schedule", [ScheduleSection(steps=3), ScheduleSection(steps=1, warmup_steps=1)])
def test_a_schedule_without_warm_up_and_decay_is_flat(schedule):
    assert {lr_factor(step, schedule) for step in range(schedule.steps)} == {1.0}


@pytest.fixture
def model(tiny_recipe):
    torch.manual_seed(0)
    overrides = dict(tiny_recipe().model.overrides)
    return TransformerModel(ModelConfig.from_preset("tiny").replace(**overrides, attention_bias=True))


@pytest.fixture
def batch():
    """input_ids and labels of 4 rows of 24, some labels ignored."""
    tokens = torch.randint(512, (4, 25), generator=torch.Generator().manual_seed(0))
    labels = tokens[:, 1:].clone()
    labels[1, 10:] = IGNORE_INDEX
    labels[3, ::3] = IGNORE_INDEX
    return tokens[:, :-1], labels


def plain_loss(model, input_ids, labels, z_loss=0.0):
    """The sum of losses from all logits at once: what `NextTokenLoss` must agree with."""
    logits = model(input_ids).flatten(0, 1).float()
    log_z = logits.logsumexp(-1)[labels.flatten() != IGNORE_INDEX]
    return F.cross_entropy(logits, labels.flatten(), reduction="sum") + z_loss * log_z.square().sum()


def gradients(model, loss):
    """The gradients of a loss, by parameter name."""
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 1000])
def test_a_loss_by_chunks_is_the_plain_loss_with_its_gradients(model, batch, chunk_tokens, z_loss):
    expected = plain_loss(model, *batch, z_loss)
    total, cross_entropy = NextTokenLoss(model, z_loss=z_loss, chunk_tokens=chunk_tokens)(*batch)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(cross_entropy, plain_loss(model, *batch))
    assert not cross_entropy.requires_grad
    torch.testing.assert_close(gradients(model, total / 7), gradients(model, expected / 7))


def test_weights_that_stand_still_get_no_gradient(model, batch):
    model.requires_grad_(requires_grad=False)
    model.model.norm.weight.requires_grad_()
    NextTokenLoss(model)(*batch)[0].backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["model.norm.weight"]


def test_a_loss_without_gradients_is_the_same(model, batch):
    with torch.inference_mode():
        inferred = NextTokenLoss(model)(*batch)
    assert [t.item() for t in inferred] == [t.item() for t in NextTokenLoss(model)(*batch)]


def test_bfloat16_is_near_float32(model, batch):
    loss = NextTokenLoss(model, chunk_tokens=10)
    exact = loss(*batch)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rough = loss(*batch)[0]
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=2e-3)
    rough_gradients = gradients(model, rough)
    for name, gradient in gradients(model, exact).items():
        assert (rough_gradients[name] - gradient).norm() < 0.05 * gradient.norm(), name


def test_recomputed_activations_change_nothing(model, batch):
    expected = gradients(model, NextTokenLoss(model)(*batch)[0])
    recomputing = parallelize(NextTokenLoss(model), MachineSection(recompute_activations=True), Ranks())
    assert gradients(model, recomputing(*batch)[0]).keys() == expected.keys()
    torch.testing.assert_close(gradients(model, recomputing(*batch)[0]), expected, rtol=0, atol=0)


@pytest.mark.slow  # the compiler takes half a minute
@pytest.mark.filterwarnings("ignore")  # of torch's compiler about torch
def test_a_compiled_loss_is_the_loss(model, batch):
    expected = gradients(model, NextTokenLoss(model)(*batch)[0])
    compiled = parallelize(NextTokenLoss(model), MachineSection(compile=True), Ranks())
    torch.testing.assert_close(gradients(model, compiled(*batch)[0]), expected, rtol=1e-4, atol=1e-5)


def test_the_first_loss_is_that_of_a_uniform_guess(model):
    input_ids = torch.randint(512, (4, 48), generator=torch.Generator().manual_seed(0))
    _, cross_entropy = NextTokenLoss(model)(input_ids, input_ids.roll(1))
    assert cross_entropy.item() / input_ids.numel() == pytest.approx(math.log(512), rel=0.03)


def test_padding_does_not_count(model):
    input_ids = torch.randint(512, (2, 16), generator=torch.Generator().manual_seed(0))
    labels = input_ids.roll(-1, dims=1)
    padded = F.pad(input_ids, (0, 8)), F.pad(labels, (0, 8), value=IGNORE_INDEX)
    loss = NextTokenLoss(model)
    torch.testing.assert_close(loss(input_ids, labels), loss(*padded))


def one_step(run):
    """The metrics and the weights after one step, without what depends on the machine."""
    metrics = training_step(run)
    kept = {key: metrics[key] for key in ("loss", "grad_norm", "tokens")}
    return kept, {name: parameter.detach() for name, parameter in run.model.named_parameters()}


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3])
@pytest.mark.parametrize("rows", ["packed", "document", "isolated"])
def test_accumulated_micro_batches_are_the_big_batch(tiny_run, micro_batch_size, rows):
    data = {"batch_size": 6, "rows": rows}
    metrics, whole = one_step(tiny_run("whole", data=data))
    again, parts = one_step(tiny_run("parts", data=data, machine={"micro_batch_size": micro_batch_size}))
    assert again == pytest.approx(metrics, rel=1e-5)
    # AdamW's first step divides a gradient by its own size, so a tiny one may turn rounding into a step.
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-4)


def test_gradients_are_clipped_by_their_common_norm(tiny_run, monkeypatch):
    run = tiny_run(optimizer={"max_grad_norm": 0.01})
    seen = {}

    def note_gradients():
        seen["norm"] = torch.cat([p.grad.flatten() for p in run.model.parameters()]).norm().item()

    monkeypatch.setattr(run.optimizers[0], "step", note_gradients)
    metrics = training_step(run)
    assert metrics["grad_norm"] > 0.1
    assert seen["norm"] == pytest.approx(0.01, rel=1e-3)


def test_matrices_decay_and_vectors_do_not(model):
    decaying, free = decay_groups(list(model.parameters()), weight_decay=0.1)
    assert (decaying["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert {parameter.ndim for parameter in decaying["params"]} == {2}
    assert {parameter.ndim for parameter in free["params"]} == {1}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_parameter_is_in_one_group_once(model, name):
    optimizers = build_optimizers(model, OptimizerSection(name=name))
    grouped = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    assert grouped.count(id(model.lm_head.weight)) == 1


def test_muon_has_the_matrices_of_the_blocks_alone(model):
    _, muon = build_optimizers(model, OptimizerSection(name="muon"))
    [group] = muon.param_groups
    theirs = {id(p) for p in group["params"]}
    names = {name.split(".")[-2] for name, p in model.named_parameters() if id(p) in theirs}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(theirs) == 7 * model.config.num_hidden_layers


def test_a_step_of_adamw_is_its_formula(model):
    """Loshchilov & Hutter, algorithm 2, written out for the first two steps."""
    config = OptimizerSection(lr=1e-2, betas=(0.8, 0.9), eps=1e-8, weight_decay=0.1)
    [optimizer] = build_optimizers(model, config)
    for parameter, decay in ((model.model.layers[0].mlp.up_proj.weight, 0.1), (model.model.norm.weight, 0.0)):
        expected = parameter.detach().double().clone()
        first, second = torch.zeros_like(expected), torch.zeros_like(expected)
        for step in (1, 2):
            model.zero_grad()
            parameter.grad = torch.sin(torch.arange(parameter.numel(), dtype=torch.float32) + step).view_as(parameter)
            gradient = parameter.grad.double()
            first, second = 0.8 * first + 0.2 * gradient, 0.9 * second + 0.1 * gradient**2
            expected *= 1 - 1e-2 * decay
            expected -= 1e-2 * (first / (1 - 0.8**step)) / ((second / (1 - 0.9**step)).sqrt() + 1e-8)
            optimizer.step()
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_a_step_of_muon_is_an_orthogonal_matrix_of_adamws_size(model):
    """Five Newton-Schulz steps leave singular values near one, times 0.2 sqrt(max(rows, columns)) times the rate."""
    weight = model.model.layers[0].mlp.up_proj.weight  # 64 x 32
    before = weight.detach().clone()
    _, muon = build_optimizers(model, OptimizerSection(name="muon", lr=1e-2, weight_decay=0.0))
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    direction = torch.linalg.svd(weight.grad, full_matrices=False)
    muon.step()
    update = (before - weight.detach()) / (1e-2 * 0.2 * 64**0.5)
    singular = torch.linalg.svdvals(update)
    assert 0.6 < singular.min() <= singular.max() < 1.3
    assert F.cosine_similarity(update.flatten(), (direction.U @ direction.Vh).flatten(), dim=0) > 0.97


@pytest.mark.parametrize(("name", "z_loss"), [("adamw", 0.0), ("adamw", 1e-4), ("muon", 0.0)])
def test_one_batch_overfits_to_near_zero(model, name, z_loss):
    optimizers = build_optimizers(model, OptimizerSection(name=name, lr=1e-2, weight_decay=0.0))
    loss = NextTokenLoss(model, z_loss=z_loss)
    tokens = torch.randint(512, (2, 33), generator=torch.Generator().manual_seed(0))
    for _ in range(120 if name == "adamw" else 60):
        model.zero_grad()
        total, cross_entropy = loss(tokens[:, :-1], tokens[:, 1:])
        (total / 64).backward()
        for optimizer in optimizers:
            optimizer.step()
    assert cross_entropy.item() / 64 < 0.02
