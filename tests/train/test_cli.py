import json
import math
import subprocess
import sys
import time

import pytest
from tokenizers import Tokenizer

from train.__main__ import main
from train.config import RECIPES_FOLDER

TINY = [
    *("--set", "model.overrides={hidden_size=64, intermediate_size=64, num_hidden_layers=1}"),
    *("--set", "data.documents=100", "--set", "data.context=64", "--set", "data.batch_size=1"),
    *("--set", "schedule.steps=4", "--set", "schedule.warmup_steps=1", "--set", "schedule.decay_steps=1"),
    *("--set", "run.sample_every=0"),
]


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["plot", "--help"]])
def test_help_is_fast_and_needs_no_torch(arguments):
    report = "finally: print(sorted(sys.modules), file=sys.stderr)"
    code = f"import sys, train.__main__ as m\ntry: m.main(sys.argv[1:])\n{report}"
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert time.perf_counter() - started < 5  # a limit for a crowded machine; half a second is the aim
    assert "usage: python -m train" in done.stdout
    assert not [name for name in ("torch", "numpy", "matplotlib", "tokenizers") if f"'{name}'" in done.stderr]


@pytest.mark.parametrize("command", ["run", "resume", "branch", "tokenize", "tokenizer", "plot", "stories"])
def test_every_command_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"example: python -m train {command}" in capsys.readouterr().out.replace("\n", " ")


def test_run_then_plot_then_resume(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["run", "stories-tiny", "--out", str(out), *TINY, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["checkpoint"] == str(out / "checkpoint")
    assert {"loss", "held_out_loss", "entropy_ratio", "seconds", "train_tokens", "parameters"} <= summary.keys()
    for name in ("loss.png", "metrics.jsonl", "checkpoint/tokenizer.json", "checkpoint/generation_config.json"):
        assert (out / name).stat().st_size

    assert main(["plot", str(out), str(out), "--out", str(tmp_path / "two.png")]) == 0
    assert (tmp_path / "two.png").read_bytes().startswith(b"\x89PNG")

    assert main(["resume", str(out), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["finished"]

    assert main(["run", "stories-tiny", "--out", str(out), *TINY]) == 1
    assert "pass --overwrite" in capsys.readouterr().err
    assert main(["run", "stories-tiny", "--out", str(out), *TINY, "--overwrite"]) == 0


@pytest.mark.parametrize(("recipe", "vocab_size"), [("shakespeare-char", 257), ("shakespeare", 1024)])
def test_shakespeare_is_learned_by_characters_or_by_bpe(recipe, vocab_size, tmp_path, capsys):
    speeches = [f"{who}:\nSpeak, speak; line {n} of mine.\nI say {n * n}." for n in range(200) for who in ("All", "Me")]
    (tmp_path / "input.txt").write_text("\n\n".join(speeches))
    overrides = ["schedule.steps=3", "schedule.warmup_steps=1", "data.batch_size=1", "machine.threads=1"]
    overrides += [f"data.root={tmp_path}", "run.sample_every=0"]
    arguments = [part for override in overrides for part in ("--set", override)]
    assert main(["run", recipe, "--out", str(tmp_path / "run"), *arguments, "--json"]) == 0
    config = json.loads((tmp_path / "run" / "checkpoint" / "config.json").read_text())
    assert config["vocab_size"] == vocab_size
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(math.log(vocab_size), rel=0.2)  # a fresh model guesses
    if recipe == "shakespeare-char":
        tokenizer = Tokenizer.from_file(str(tmp_path / "run" / "tokenizer" / "tokenizer.json"))
        assert tokenizer.encode("All:\n", add_special_tokens=False).tokens == ["A", "l", "l", ":", "Ċ"]


def test_a_run_is_extended_and_branched_off(tmp_path, capsys):
    out, branch = tmp_path / "run", tmp_path / "branch"
    assert main(["run", "stories-tiny", "--out", str(out), *TINY, "--set", "machine.threads=1", "--json"]) == 0
    assert main(["resume", str(out), "--set", "schedule.steps=6", "--json"]) == 0
    arguments = ["--out", str(branch), "--set", "schedule.steps=8", "--from-step", "5", "--json"]
    assert main(["branch", str(out), *arguments]) == 0
    assert [json.loads(line)["step"] for line in capsys.readouterr().out.splitlines()] == [4, 6, 8]
    assert main(["branch", str(out), "--out", str(tmp_path / "other"), "--from-step", "2"]) == 1
    assert "has no state of step 2; it has 4, 5, 6" in capsys.readouterr().err


def test_overwrite_never_deletes_what_is_no_run(tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("dear")
    assert main(["run", "stories-tiny", "--out", str(tmp_path), *TINY, "--overwrite"]) == 1
    assert "is not the folder of a run" in capsys.readouterr().err
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_stories_are_printed(capsys):
    assert main(["stories", "--count", "3", "--seed", "7"]) == 0
    assert len(capsys.readouterr().out.strip().split("\n\n")) == 3
    assert main(["stories", "--count", "2", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["stories"]) == 2
    assert printed["true_entropy_nats_per_story"] > 0


def test_a_tokenizer_is_trained_from_a_file(tmp_path, capsys):
    text = tmp_path / "book.txt"
    text.write_text("the cat sat on the mat. " * 50)
    assert main(["tokenizer", str(text), "--out", str(tmp_path / "bpe"), "--vocab-size", "300", "--json"]) == 0
    assert 257 < json.loads(capsys.readouterr().out)["vocab_size"] <= 300
    assert (tmp_path / "bpe" / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "novel", "--out", "x"], "there is no recipe novel"),
        (["run", "stories-tiny", "--out", "x", "--set", "optimizer.lrr=1"], "did you mean optimizer.lr?"),
        (["run", "stories-tiny", "--out", "x", "--set", "data.source=nowhere.txt"], "nowhere.txt cannot be read"),
        (["tokenize", "stories-tiny", "--out", "x", "--set", "data.source=nowhere.txt"], "nowhere.txt cannot be read"),
        (["tokenizer", "novel.toml", "--out", "x"], "there is no recipe novel.toml"),
        (["resume", "nowhere"], "nowhere is not the folder of a run"),
        (["plot", "nowhere", "--out", "x.png"], "metrics.jsonl cannot be read"),
        (["tokenizer", "nowhere.txt", "--out", "x"], "nowhere.txt cannot be read"),
        (["tokenizer", "stories", "--out", "x", "--vocab-size", "200"], "vocab_size must be above 256"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_one(arguments, complaint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert complaint in printed.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["run"], ["run", "stories-tiny"], ["stories", "--count", "many"], ["stories", "--count", "0"]],
)
def test_wrong_usage_is_exit_code_two(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


def test_the_module_exits_with_the_code(tmp_path):
    command = [sys.executable, "-m", "train", "plot", "nowhere", "--out", str(tmp_path / "x.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=RECIPES_FOLDER.parents[1])
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
