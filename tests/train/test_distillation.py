"""Distillation against a plain twin, and that a student learns more from a teacher than from the text alone."""

import pytest
import torch

from model import ModelConfig, TransformerModel, save_checkpoint
from tests.train.conftest import TINY_SHAPE
from train.config import Recipe, read_recipe
from train.distillation import DistillationLoss, scaled_divergence
from train.errors import RecipeError
from train.labels import IGNORE_INDEX
from train.loop import train
from train.loss import NextTokenLoss
from train.run.folder import RunFolder
from train.setup import start_run


def model_of(seed, **changes):
    torch.manual_seed(seed)
    return TransformerModel(ModelConfig.from_preset("tiny").replace(**TINY_SHAPE | changes))


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    input_ids, labels = (torch.randint(1, 512, (3, 20), generator=generator) for _ in range(2))
    labels[0, 12:] = labels[1, :5] = IGNORE_INDEX
    return input_ids, labels


def expected_loss(student, teacher, input_ids, labels, *, weight, temperature):
    """The same by its definition, token by token, from all logits at once."""
    ours, theirs = student(input_ids), teacher(input_ids).detach()
    total = 0.0
    for row, position in (labels != IGNORE_INDEX).nonzero().tolist():
        log_p = torch.log(torch.softmax(ours[row, position], -1))
        q = torch.softmax(theirs[row, position, :512] / temperature, -1)
        p = torch.softmax(ours[row, position] / temperature, -1)
        divergence = (q * (torch.log(q) - torch.log(p))).sum()
        total = total - (1 - weight) * log_p[labels[row, position]] + weight * temperature**2 * divergence
    return total


@pytest.mark.parametrize("teacher_vocab_size", [512, 520])
@pytest.mark.parametrize(("weight", "temperature"), [(0.3, 1.0), (1.0, 2.5)])
def test_the_loss_and_its_gradient_are_those_of_the_definition(batch, weight, temperature, teacher_vocab_size):
    student, teacher = model_of(1), model_of(2, hidden_size=48, vocab_size=teacher_vocab_size)
    expected = expected_loss(student, teacher, *batch, weight=weight, temperature=temperature)
    expected.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in student.named_parameters()}
    for chunk_tokens in (0, 7):
        loss = DistillationLoss(student, teacher, weight=weight, temperature=temperature, chunk_tokens=chunk_tokens)
        loss.zero_grad()
        total, _ = loss(*batch)
        assert total.item() == pytest.approx(expected.item(), rel=1e-5)
        total.backward()
        for name, parameter in student.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-5)
        assert all(parameter.grad is None for parameter in teacher.parameters())
        assert {name for name, _ in loss.named_parameters()} == {f"model.{name}" for name in gradients}


def test_what_is_reported_and_evaluated_is_the_cross_entropy(batch):
    student = model_of(1)
    loss = DistillationLoss(student, model_of(2), weight=0.7, chunk_tokens=7)
    _, expected = NextTokenLoss(student)(*batch)
    assert loss(*batch)[1].item() == pytest.approx(expected.item(), rel=1e-5)
    with torch.no_grad():
        assert [value.item() for value in loss(*batch)] == pytest.approx([expected.item()] * 2, rel=1e-5)


def test_a_model_that_is_its_teacher_diverges_by_nothing():
    logits = torch.randn(5, 30)
    assert scaled_divergence(logits, logits, 2.0).item() == pytest.approx(0, abs=1e-5)


def test_a_teacher_of_another_tokenizer_is_an_error(tiny_run, tiny_recipe, tmp_path, shared_data):
    values = tiny_recipe().to_dict() | {"distillation": {"teacher": str(shared_data / "stories260k")}}
    with pytest.raises(RecipeError, match="has another tokenizer than the model"):
        start_run(Recipe.from_dict(values), RunFolder(tmp_path / "run"))
    save_checkpoint(model_of(1), tmp_path / "bare")
    with pytest.raises(RecipeError, match="above 0 and up to 1"):
        Recipe.from_dict(values | {"distillation": {"teacher": "x", "weight": 0.0}})


@pytest.mark.slow
def test_a_student_ends_below_the_same_student_without_its_teacher(shared_data, tmp_path):
    teacher = str(shared_data / "stories260k")
    values = read_recipe("stories-tiny").to_dict()
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1}
    shape |= {"head_dim": 16, "num_hidden_layers": 2, "vocab_size": 512}
    values["model"]["overrides"] = shape
    values["tokenizer"] = {"path": teacher}
    values["data"] |= {"source": str(shared_data / "corpora" / "tinystories-sample.txt"), "held_out": 0.05}
    values["data"] |= {"context": 64, "batch_size": 8, "held_out_tokens": 20_000}
    values["schedule"] = {"steps": 250, "warmup_steps": 20, "decay_steps": 100}
    values["run"] |= {"sample_every": 0, "evaluate_every": 250, "save_every": 0}
    values["machine"]["threads"] = 1
    ended = []
    for name, distillation in (("alone", None), ("taught", {"teacher": teacher, "weight": 0.8})):
        run = start_run(Recipe.from_dict(values | {"distillation": distillation}), RunFolder(tmp_path / name))
        ended.append(train(run)["held_out_loss"])
    assert ended[1] < ended[0] - 0.02
