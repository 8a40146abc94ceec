"""DPO against the formula of its paper, by the log-probabilities of transformers; and that it learns what is better."""

import json
import math
import os
import signal

import pytest
import torch

from model import ModelConfig, TransformerModel, save_checkpoint
from tests.train.conftest import TINY_SHAPE
from train.config import Recipe
from train.data.batches import pad_pairs
from train.data.config import DataSection, SourceSection
from train.data.corpus import build_corpus
from train.data.rows import PairDataset
from train.data.sources import read_source
from train.data.tokenizer import CorpusTokenizer, train_tokenizer
from train.errors import DataError, RecipeError
from train.labels import IGNORE_INDEX
from train.loop import train
from train.preference import PreferenceLoss, label_logprobs
from train.resume import resume_run
from train.run.folder import RunFolder
from train.run.metrics import read_metrics
from train.setup import start_run

BETA = 0.3


@pytest.fixture(scope="module")
def models():
    """A model and a reference of random weights."""
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        made.append(TransformerModel(ModelConfig.from_preset("tiny").replace(**TINY_SHAPE)))
    return made


@pytest.fixture(scope="module")
def pairs():
    """Three pairs: input_ids and labels, int64 [3, 2, 20]; answers of 3 to 12 tokens after prompts."""
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(1, 512, (3, 2, 20), generator=generator)
    labels = torch.randint(1, 512, (3, 2, 20), generator=generator)
    for number, (begin, end) in enumerate([(4, 9), (7, 10), (3, 15), (5, 8), (2, 11), (10, 20)]):
        labels.view(6, 20)[number, :begin] = IGNORE_INDEX
        labels.view(6, 20)[number, end:] = IGNORE_INDEX
    return input_ids, labels


def logprob_of(logits, labels):
    """The sum of the log-probabilities of the labels of one row, by the definition of softmax."""
    total = 0.0
    for position, label in enumerate(labels.tolist()):
        if label != IGNORE_INDEX:
            exponentials = torch.exp(logits[position].double())
            total = total + torch.log(exponentials / exponentials.sum())[label]
    return total


def expected_loss(ours, theirs, labels):
    """Equation 7 of arXiv:2305.18290, summed over pairs, from logits [pairs, 2, sequence_length, vocab_size]."""
    total = 0.0
    for pair in range(len(labels)):
        ratios = [
            logprob_of(ours[pair, side], labels[pair, side]) - logprob_of(theirs[pair, side], labels[pair, side])
            for side in (0, 1)
        ]
        total = total - torch.log(1 / (1 + torch.exp(-BETA * (ratios[0] - ratios[1]))))
    return total


def test_the_loss_and_its_gradient_are_those_of_the_paper(models, pairs, tmp_path):
    from transformers import AutoModelForCausalLM

    input_ids, labels = pairs
    outside = []
    for name, model in zip(("model", "reference"), models, strict=True):
        save_checkpoint(model, tmp_path / name)
        outside.append(AutoModelForCausalLM.from_pretrained(tmp_path / name).eval())
    logits = [model(input_ids.flatten(0, 1)).logits.unflatten(0, (3, 2)) for model in outside]
    expected = expected_loss(logits[0], logits[1].detach(), labels)
    expected.backward()
    for chunk_tokens in (0, 5):
        loss = PreferenceLoss(*models, beta=BETA, chunk_tokens=chunk_tokens)
        loss.zero_grad()
        total, value = loss(input_ids, labels)
        assert total.item() == value.item() == pytest.approx(expected.item(), rel=1e-5)
        total.backward()
        gradients = dict(outside[0].named_parameters())
        for name, parameter in loss.model.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-3, atol=1e-6)
        assert all(parameter.grad is None for parameter in models[1].parameters())


def test_log_probabilities_are_those_of_transformers(models, pairs, tmp_path):
    from transformers import AutoModelForCausalLM

    input_ids, labels = (part.flatten(0, 1) for part in pairs)
    save_checkpoint(models[0], tmp_path)
    logits = AutoModelForCausalLM.from_pretrained(tmp_path)(input_ids).logits
    expected = torch.stack([logprob_of(row, row_labels) for row, row_labels in zip(logits, labels, strict=True)])
    torch.testing.assert_close(label_logprobs(models[0], input_ids, labels, 7), expected.float(), rtol=1e-5, atol=1e-4)


def test_a_model_that_is_the_reference_has_no_margin(models, pairs):
    total, _ = PreferenceLoss(models[1], models[1], beta=BETA)(*pairs)
    assert total.item() == pytest.approx(3 * math.log(2), rel=1e-6)


ROWS = [
    {
        "question": f"Is {number} a number?",
        "better": f"Yes, {number} is one.",
        "worse": f"What a question, {number}!",
    }
    for number in range(120)
]
SOURCE = {"prompt_field": "question", "field": "better", "rejected_field": "worse"}


@pytest.fixture
def pair_file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_pairs_are_two_rows_after_the_same_prompt(pair_file):
    data = DataSection(sources=(SourceSection(path=str(pair_file), **SOURCE),), rows="pairs", context=64, held_out=0.2)
    tokenizer = CorpusTokenizer(train_tokenizer([json.dumps(row) for row in ROWS], 400))
    corpus = build_corpus(data, tokenizer, 0)
    dataset = PairDataset(corpus.sources[0].train, 64)
    assert len(dataset) + len(PairDataset(corpus.held_out, 64)) == 120
    batch = pad_pairs([dataset[0], dataset[1]])
    assert batch.input_ids.shape[:2] == batch.labels.shape[:2] == (2, 2)
    assert batch.units == 2
    texts = [tokenizer.tokenizer.decode(row[row != IGNORE_INDEX].tolist()) for row in batch.labels[0]]
    number = texts[0].split()[1]
    assert texts == [f"Yes, {number} is one.", f"What a question, {number}!"]
    assert tokenizer.tokenizer.decode(batch.input_ids[0, 1].tolist()).startswith(f"Is {number} a number?What")
    assert len(PairDataset(corpus.sources[0].train, 3)) == 0  # nothing of an answer fits


def test_a_row_without_its_worse_answer_is_an_error(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"question": "a", "better": "b"}) + "\n")
    source = SourceSection(path=str(path), **SOURCE)
    with pytest.raises(DataError, match="line 1 has no field 'worse'"):
        list(read_source(source, DataSection(sources=(source,), rows="pairs"), 0))


@pytest.fixture
def preferring(tiny_run, tiny_recipe, pair_file, tmp_path):
    """Makes a run on pairs from a tiny model that has read a little."""
    first = tiny_run("first", tokenizer={"vocab_size": 400}, run={"evaluate_every": 0})
    train(first)

    def make(name="run", **sections):
        values = tiny_recipe().to_dict() | {"model": {"init_from": str(first.folder.checkpoint)}}
        values["data"] |= {"sources": [SOURCE | {"path": str(pair_file)}], "rows": "pairs", "context": 64}
        values["data"] |= {"held_out": 0.2, "batch_size": 8, "documents": 2}
        values["optimizer"] |= {"lr": 3e-3}
        values |= {"preference": {"beta": 0.1}} | sections
        return start_run(Recipe.from_dict(values), RunFolder(tmp_path / name))

    return make


def test_the_margin_of_held_out_pairs_rises(preferring):
    run = preferring()
    last = train(run)
    assert last["margin"] > 0.3
    assert last["preference_accuracy"] > 0.9
    assert last["held_out_loss"] < math.log(2)


def test_a_signal_ends_an_evaluation_of_pairs(preferring, monkeypatch):
    run = preferring(run={"evaluate_every": 4, "sample_every": 0, "save_every": 0})
    module = getattr(run.loss, "module", run.loss)
    margins, asked = module.margins, []

    def signal_at_the_second_pair(*batch):
        if not torch.is_grad_enabled():
            asked.append(run.step)
            if len(asked) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
        return margins(*batch)

    monkeypatch.setattr(module, "margins", signal_at_the_second_pair)
    outcome = train(run)
    assert (outcome["stopped_by"], asked) == ("SIGTERM", [4, 4])


def test_micro_batches_give_the_same_losses_and_a_resumed_run_too(preferring, tiny_recipe):
    machine = tiny_recipe().to_dict()["machine"]
    whole, parts = preferring("whole"), preferring("parts", machine=machine | {"micro_batch_size": 3})
    train(whole)
    train(parts, stop_at=12)
    resumed = resume_run(parts.folder)
    train(resumed)
    losses = [[line["loss"] for line in read_metrics(run.folder.metrics)] for run in (whole, resumed)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"preference": None}, 'a section preference goes with data.rows = "pairs"'),
        ({"preference": {"beta": 0.0}}, "preference.beta must be positive"),
        ({"model": {"preset": "tiny"}}, r"preference needs model\.init_from"),
        ({"distillation": {"teacher": "x"}}, "preference or distillation; keep one"),
        ({"machine": {"sharding": "fsdp"}}, "preference goes with machine.sharding = ddp"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_an_error(tiny_recipe, changes, complaint):
    values = tiny_recipe().to_dict() | {"model": {"init_from": "somewhere"}, "preference": {}}
    values["data"] |= {"rows": "pairs", "sources": [SOURCE | {"path": "pairs.jsonl"}]}
    with pytest.raises(RecipeError, match=complaint):
        Recipe.from_dict(values | changes)
