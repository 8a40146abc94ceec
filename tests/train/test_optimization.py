import pytest
import torch

from model import ModelConfig, TransformerModel
from train.config import OptimizerSection, ScheduleSection
from train.loop import next_token_loss
from train.optimizer import build_optimizer, decay_groups
from train.schedule import lr_factor

SCHEDULE = ScheduleSection(steps=100, warmup_steps=10, decay_steps=30)


def test_the_rate_rises_stays_and_falls():
    factors = [lr_factor(step, SCHEDULE) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert factors[10:71] == [1.0] * 61
    assert factors[70:] == pytest.approx([n / 30 for n in range(30, 0, -1)])
    assert all(0 < factor <= 1 for factor in factors)


@pytest.mark.parametrize("schedule", [ScheduleSection(steps=3), ScheduleSection(steps=1, warmup_steps=1)])
def test_a_schedule_without_warm_up_and_decay_is_flat(schedule):
    assert {lr_factor(step, schedule) for step in range(schedule.steps)} == {1.0}


@pytest.fixture
def model(tiny_recipe):
    torch.manual_seed(0)
    overrides = dict(tiny_recipe().model.overrides)
    return TransformerModel(ModelConfig.from_preset("tiny").replace(**overrides, attention_bias=True))


def test_matrices_decay_and_vectors_do_not(model):
    decaying, free = decay_groups(model, weight_decay=0.1)
    assert (decaying["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert {parameter.ndim for parameter in decaying["params"]} == {2}
    assert {parameter.ndim for parameter in free["params"]} == {1}


def test_every_parameter_is_in_one_group_once(model):
    grouped = [id(parameter) for group in decay_groups(model, 0.1) for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    assert grouped.count(id(model.lm_head.weight)) == 1


def test_the_first_loss_is_that_of_a_uniform_guess(model):
    input_ids = torch.randint(512, (4, 48), generator=torch.Generator().manual_seed(0))
    loss = next_token_loss(model, input_ids, input_ids.roll(1))
    assert loss.item() == pytest.approx(torch.tensor(512.0).log().item(), rel=0.03)


def test_padding_does_not_count(model):
    input_ids = torch.randint(512, (2, 16), generator=torch.Generator().manual_seed(0))
    labels = input_ids.roll(-1, dims=1)
    padded = torch.nn.functional.pad(input_ids, (0, 8)), torch.nn.functional.pad(labels, (0, 8), value=-100)
    torch.testing.assert_close(next_token_loss(model, input_ids, labels), next_token_loss(model, *padded))


def test_one_batch_overfits_to_near_zero(model):
    optimizer = build_optimizer(model, OptimizerSection(lr=1e-2, weight_decay=0.0))
    tokens = torch.randint(512, (2, 33), generator=torch.Generator().manual_seed(0))
    for _ in range(120):
        optimizer.zero_grad()
        loss = next_token_loss(model, tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02
