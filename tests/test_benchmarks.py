"""The benchmarks' own machinery: an engine in a process of its own answers, and ratios are those of the rounds."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import main, table
from benchmarks.worker import Worker


def test_our_own_engine_answers_with_times_and_memory(tiny_bundle):
    worker = Worker(f"smoltext:-:{tiny_bundle}:int8", threads=1)
    try:
        assert worker.ask(16, 4)["prefill_seconds"] > 0
        assert worker.ask(16, 4)["decode_seconds"] > 0
        assert worker.peak_bytes() > 1_000_000
        with pytest.raises(RuntimeError, match="ended instead of answering"):
            worker.ask(10_000, 1)  # more than the context
    finally:
        worker.close()


def test_ratios_are_taken_round_by_round():
    rates = {"decode": {"peer": [100.0, 50.0, 200.0], "ours": [110.0, 60.0, 200.0]}}
    lines = table(rates, {"ours": 5_000_000}).splitlines()
    assert "1.00  (1.00 to 1.00)" in lines[1]
    assert "1.10  (1.00 to 1.20)" in lines[2]
    assert lines[3].split()[-2:] == ["5", "MB"]


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["x=abacus:-:model"], 1, "kinds are genai, llamacpp, openvino, smoltext"),
        (["x=smoltext"], 1, "KIND:PYTHON:MODEL"),
        (["x=smoltext:-:no-such-bundle"], 1, "ended instead of answering"),
        (["x=smoltext:-:m", "--rounds", "1"], 2, "at least 2"),
    ],
)
def test_an_engine_that_cannot_run_is_one_clear_line(arguments, code, named, capfd):
    assert main(arguments) == code
    assert named in capfd.readouterr().err


def test_training_is_measured_in_turn_and_told_as_ratios():
    pytest.importorskip("torch")
    import torch

    from benchmarks import training
    from model import ModelConfig
    from train.config import MachineSection

    config = ModelConfig.from_preset("tiny").replace(vocab_size=64, hidden_size=16, intermediate_size=16, head_dim=4)
    shape = (config, torch.randint(64, (200,)), 2, 16)
    engines = {"ours": training.ours(*shape, MachineSection(device="cpu")), "plain loop": training.plain(*shape)}
    times = training.measure(engines, steps=1, rounds=2)
    assert {name: len(seconds) for name, seconds in times.items()} == {"ours": 2, "plain loop": 2}
    lines = training.table({"ours": [1.0, 2.0], "plain loop": [1.5, 2.0]}, tokens=300)
    assert lines[1].split()[:2] == ["ours", "200"]
    assert "1.25  (1.00 to 1.50)" in lines[2]


def test_prompt_lookup_is_measured_on_passages_that_were_not_learned(tiny_bundle):
    pytest.importorskip("torch")
    from benchmarks import copying
    from runtime import Bundle, DecoderSession
    from runtime.text.tokenizer import Tokenizer

    words = "the mouse saw a cat and the cat saw the mouse under the old tree".split()
    for make in (copying.short_passages, copying.long_passages):
        documents = list(make([words * 20], documents=9))
        assert documents == list(make([words * 20], documents=9))
        for document in documents:
            passages = document.split(copying.SEPARATOR)
            assert len(passages) >= 2
            assert set(passages) == {passages[0]}
    bundle = Bundle.open(tiny_bundle)
    session = DecoderSession(bundle, "fp32", threads=1)
    for copy in (True, False):
        for pair in copying.measure(session, Tokenizer(bundle), words, copy=copy, count=2, words_each=8):
            assert pair.same
            assert pair.plain_seconds > 0
            assert pair.lookup_seconds > 0
            assert 0 <= pair.copied <= 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["measure", "no-such-bundle", "{texts}"], "no folder no-such-bundle"),
        (["measure", "{bundle}", "{empty}"], "holds no *.txt"),
        (["measure", "{bundle}", "{texts}", "--precision", "int8"], "prompt lookup could change tokens in int8"),
        (["passages", "{empty}", "--out", "{empty}/out"], "holds no *.txt"),
    ],
)
def test_copying_that_cannot_be_measured_is_one_clear_line(arguments, named, tiny_bundle, tmp_path, capfd):
    pytest.importorskip("torch")
    from benchmarks import copying

    texts, empty = tmp_path / "texts", tmp_path / "empty"
    texts.mkdir()
    empty.mkdir()
    (texts / "a.txt").write_text("the mouse saw a cat " * 400, encoding="utf-8")
    places = {"texts": texts, "empty": empty, "bundle": tiny_bundle}
    assert copying.main([argument.format(**places) for argument in arguments]) == 1
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert named in error
    assert not list(empty.iterdir())
