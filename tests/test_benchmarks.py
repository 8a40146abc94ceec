"""The benchmarks' own machinery: an engine in a process of its own answers, and ratios are those of the rounds."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.intervals import median_interval
from benchmarks.machine import this_machine
from benchmarks.tables import markdown_table, replace_section, text_table
from benchmarks.worker import Worker
from benchmarks.workloads import WORKLOADS

EMPTY = {workload.name: {"peer": [1.0], "ours": [1.0]} for workload in WORKLOADS[1:]}


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


RATES = {"prefill 512": {"peer": [100.0, 50.0, 200.0], "ours": [110.0, 60.0, 210.0]}}


def test_ratios_are_taken_round_by_round():
    lines = text_table(RATES, {"peer": 1_000_000, "ours": 5_000_000}).splitlines()
    assert "1.00  (1.00 to 1.00 at 75%)" in lines[1]
    assert "1.10  (1.05 to 1.20 at 75%)" in lines[2]
    assert lines[4].split()[-2:] == ["5", "MB"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # 1 - 2 * P(Binomial(n, 1/2) < k), worked out by hand.
        ([3.0], (3, 3, 3, 0)),
        ([5.0, 1, 2, 4, 3], (3, 1, 5, 1 - 2 / 32)),
        ([6.0, 1, 2, 4, 3, 5], (3.5, 1, 6, 1 - 2 / 64)),
        ([*range(1, 10)], (5, 2, 8, 1 - 2 * (1 + 9) / 512)),
    ],
)
def test_a_median_lies_within_its_interval(values, expected):
    assert tuple(median_interval(values)) == pytest.approx(expected)


def test_the_interval_holds_the_true_median_as_often_as_it_says():
    draws = np.random.default_rng(0).exponential(size=(4000, 11))
    intervals = [median_interval(values.tolist()) for values in draws]
    hits = np.mean([found.low <= np.log(2) <= found.high for found in intervals])
    assert hits == pytest.approx(intervals[0].confidence, abs=0.01)


def test_a_machine_is_told_by_its_best_instructions(tmp_path):
    (tmp_path / "cpuinfo").write_text("model name\t: A CPU\nflags\t: avx2 avx512f avx512_vnni\nmodel name\t: A CPU\n")
    machine = this_machine(2, tmp_path / "cpuinfo")
    assert (machine.cpu, machine.kind, machine.cores) == ("A CPU", "AVX512-VNNI", 2)
    assert "memory 20 to 31 GB/s" in machine.line([31e9, 20e9])
    assert this_machine(1, tmp_path / "none").cores == 1


def test_a_written_table_leaves_those_of_other_machines(tmp_path):
    file = tmp_path / "benchmarks.md"
    file.write_text("# Speed\n\nWords.\n")
    replace_section(file, "AVX2", "old")
    replace_section(file, "VNNI", "theirs")
    replace_section(file, "AVX2", markdown_table("8 bits", {**RATES, **EMPTY}, {"peer": 1_000_000, "ours": 5_000_000}))
    text = file.read_text()
    assert text.startswith("# Speed\n\nWords.\n\n<!-- begin: AVX2 -->\n| 8 bits | prefill 512 |")
    assert "| ours | **1.10** (1.05 to 1.20) |" in text
    assert "old" not in text
    assert text.endswith("<!-- begin: VNNI -->\ntheirs\n<!-- end: VNNI -->\n")


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["x=abacus:-:model"], 1, "kinds are genai, llamacpp, openvino, smoltext"),
        (["x=smoltext"], 1, "KIND:PYTHON:MODEL"),
        (["x=smoltext:-:no-such-bundle"], 1, "ended instead of answering"),
        (["x=smoltext:-:m", "--rounds", "1"], 2, "at least 2"),
        (["no-such-file.toml"], 1, "no-such-file.toml"),
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
    engines["nanoGPT"] = training.nanogpt(*shape)
    times = training.measure(engines, steps=1, rounds=2)
    assert {name: len(seconds) for name, seconds in times.items()} == dict.fromkeys(engines, 2)
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
