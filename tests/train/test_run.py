"""Laws of whole runs: reproducible, resumable to the bit, whole on disk, and read by others."""

import json
import math
import os
import signal

import pytest
import torch

from model import load_checkpoint
from model.errors import ModelError
from train import loop
from train.corpus import Corpus
from train.errors import DataError, RecipeError, RunError
from train.evaluate import held_out_loss, sample_text
from train.loop import train
from train.metrics import MetricsWriter, read_metrics
from train.prepare import resume_run
from train.run_folder import RunFolder
from train.streams import StreamEncoder


def losses(run):
    return [line["loss"] for line in read_metrics(run.folder.metrics)]


def weights(folder):
    return (folder / "checkpoint" / "model.safetensors").read_bytes()


def stop_after(monkeypatch, steps):
    """Let the process receive SIGINT during a step."""
    taken = loop.training_step

    def step_and_interrupt(run):
        metrics = taken(run)
        if run.step == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return metrics

    monkeypatch.setattr(loop, "training_step", step_and_interrupt)


def test_the_same_recipe_gives_the_same_losses_and_weights(tiny_run):
    one, other = tiny_run("one"), tiny_run("other")
    assert train(one)["finished"]
    assert train(other)["finished"]
    assert losses(one) == losses(other)
    assert weights(one.folder.path) == weights(other.folder.path)


def test_another_seed_gives_another_run(tiny_run):
    one, other = tiny_run("one"), tiny_run("other", run={"seed": 1})
    train(one)
    train(other)
    assert losses(one) != losses(other)


def test_twenty_steps_learn(tiny_run):
    run = tiny_run()
    outcome = train(run)
    assert losses(run)[0] == pytest.approx(math.log(512), rel=0.05)
    assert outcome["held_out_loss"] < losses(run)[0] - 1
    assert outcome["entropy_ratio"] == pytest.approx(outcome["held_out_loss"] / outcome["true_loss"])


@pytest.mark.parametrize("rows", ["packed", "document", "isolated"])
def test_a_resumed_run_equals_an_undisturbed_one_to_the_bit(tiny_run, monkeypatch, rows):
    undisturbed, stopped = (tiny_run(name, data={"rows": rows}) for name in ("undisturbed", "stopped"))
    train(undisturbed)
    with monkeypatch.context() as patch:
        stop_after(patch, 13)
        assert not train(stopped)["finished"]
    resumed = resume_run(RunFolder(stopped.folder.path))
    assert resumed.step == 13
    assert train(resumed)["finished"]
    assert losses(resumed) == losses(undisturbed)
    assert weights(resumed.folder.path) == weights(undisturbed.folder.path)


def test_a_run_killed_between_saves_redoes_the_steps_since(tiny_run, monkeypatch):
    undisturbed, killed = tiny_run("undisturbed"), tiny_run("killed")
    train(undisturbed)
    taken = loop.training_step

    def die(run):
        if run.step == 14:
            raise KeyboardInterrupt
        return taken(run)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_step", die)
        with pytest.raises(KeyboardInterrupt):
            train(killed)
    resumed = resume_run(killed.folder)
    assert resumed.step == 10
    train(resumed)
    assert losses(resumed) == losses(undisturbed)
    assert weights(resumed.folder.path) == weights(undisturbed.folder.path)


def test_a_finished_run_resumes_to_nothing(tiny_run):
    run = tiny_run()
    train(run)
    before = weights(run.folder.path)
    assert train(resume_run(run.folder))["finished"]
    assert weights(run.folder.path) == before
    assert len(losses(run)) == 20


def test_a_line_a_step_with_all_metrics(tiny_run):
    run = tiny_run()
    train(run)
    lines = read_metrics(run.folder.metrics)
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert all({"loss", "lr", "grad_norm", "tokens_per_second"} <= line.keys() for line in lines)
    assert [line["step"] for line in lines if "held_out_loss" in line] == [10, 20]
    assert lines[0]["lr"] == pytest.approx(1e-2 / 4)


def test_transformers_loads_the_checkpoint_and_computes_the_same(tiny_run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = tiny_run()
    train(run)
    theirs = AutoModelForCausalLM.from_pretrained(run.folder.checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(run.folder.checkpoint)
    input_ids = tokenizer("Once there was a girl", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        torch.testing.assert_close(theirs(input_ids).logits, run.model(input_ids), rtol=1e-5, atol=1e-5)
    assert theirs.generation_config.eos_token_id == run.model.config.eos_token_id == tokenizer.eos_token_id


def test_training_goes_on_from_a_checkpoint_and_its_tokenizer(tiny_run):
    first = tiny_run("first")
    train(first)
    checkpoint = str(first.folder.checkpoint)
    second = tiny_run(
        "second", model={"preset": None, "overrides": {}, "init_from": checkpoint}, tokenizer={"path": checkpoint}
    )
    train(second)
    assert losses(second)[0] < losses(first)[0] - 1


def test_held_out_loss_is_the_mean_over_tokens_of_whole_documents(tiny_run):
    run = tiny_run()
    texts = [text * 3 for text in ("Once upon a time.", "The cat sat on the mat.", "A")]
    encoder = StreamEncoder(run.tokenizer, "<|endoftext|>")

    def loss(documents):
        stream = encoder.encode(documents)
        return held_out_loss(run.model, Corpus([], [stream], separator=0), context=48), stream.predictions

    parts = [loss([text]) for text in texts]
    expected = sum(nats * predictions for nats, predictions in parts) / sum(predictions for _, predictions in parts)
    assert loss(texts)[0] == pytest.approx(expected, rel=1e-5)


def test_a_sample_is_a_function_of_weights_and_seed(tiny_run):
    run = tiny_run()
    texts = [sample_text(run.model, run.tokenizer, seed) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_what_is_held_out_can_be_read_and_gives_the_same_tokens_again(tiny_run):
    run = tiny_run()
    text = run.folder.held_out.read_text()
    token_ids = run.tokenizer.encode(text).ids
    [stream] = run.corpus.held_out
    assert [*token_ids, 0] == stream.tokens.tolist()


def test_samples_are_kept(tiny_run):
    run = tiny_run(run={"sample_every": 10})
    train(run)
    assert run.folder.samples.read_text().count("step ") >= 2


def test_a_loss_that_is_no_number_stops_the_run_and_spares_what_was_saved(tiny_run):
    run = tiny_run()
    run.save()
    with torch.no_grad():
        run.model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(RunError, match=r"the loss is nan .* at step 1; lower optimizer\.lr"):
        train(run)
    assert torch.isfinite(load_checkpoint(run.folder.checkpoint).lm_head.weight).all()


@pytest.mark.parametrize("kept_bytes", [0, 100, 5000])
def test_a_cut_off_state_is_an_error(tiny_run, kept_bytes):
    run = tiny_run()
    run.save()
    state = run.folder.path / "state" / "training.safetensors"
    state.write_bytes(state.read_bytes()[:kept_bytes])
    with pytest.raises(RunError, match=r"^[^\n]*is cut off or broken[^\n]*$"):
        resume_run(run.folder)


def test_a_run_without_a_state_cannot_be_resumed(tiny_run, tmp_path):
    with pytest.raises(RunError, match="stopped before its first save"):
        resume_run(tiny_run().folder)
    with pytest.raises(RunError, match="is not the folder of a run"):
        resume_run(RunFolder(tmp_path / "nothing"))


def test_a_run_on_changed_data_cannot_be_resumed(tiny_run, tmp_path):
    text = tmp_path / "book.txt"
    text.write_text("the cat sat on the mat " * 100)
    run = tiny_run(data={"source": str(text)})
    run.save()
    text.write_text("the mat sat on the cat " * 100)
    with pytest.raises(RunError, match="have changed"):
        resume_run(run.folder)


@pytest.mark.parametrize(
    ("sections", "error", "complaint"),
    [
        ({"tokenizer": {"vocab_size": 600}}, RecipeError, r"has 600 tokens, the model's vocabulary only 512"),
        ({"tokenizer": {"separator": "<s>"}}, RecipeError, r"a tokenizer made here has <\|endoftext\|>"),
        ({"data": {"context": 65}}, RecipeError, r"data\.context 65 exceeds the model's 64 positions"),
        ({"model": {"preset": "huge"}}, ModelError, "no preset 'huge'"),
        ({"model": {"overrides": {"hidden_sizes": 3}}}, RecipeError, "model.overrides: .*hidden_sizes"),
        ({"model": {"overrides": {"hidden_size": -3}}}, ModelError, "hidden_size must be a positive integer"),
        ({"tokenizer": {"path": "nowhere.json"}}, DataError, "there is no tokenizer nowhere.json"),
    ],
)
def test_what_does_not_fit_is_an_error_before_anything_is_written(tiny_run, tmp_path, sections, error, complaint):
    with pytest.raises(error, match=complaint):
        tiny_run(**sections)
    assert not (tmp_path / "run").exists()


def test_data_shorter_than_the_context_are_an_error(tiny_run, tmp_path):
    text = tmp_path / "note.txt"
    text.write_text("a short note")
    with pytest.raises(DataError, match="less than one row of 48"):
        tiny_run(data={"source": str(text)})


def test_metrics_after_the_step_resumed_at_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "lo')
    with MetricsWriter(path, resumed_at=2) as writer:
        writer.write({"step": 3, "loss": 1.0})
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]
