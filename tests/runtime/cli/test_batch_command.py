"""`batch`: files in and out, exit codes, and going on after whatever ended it."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time

import pytest

from runtime import Bundle, DecoderSession, SamplingOptions, generate_step
from runtime.sampling.sampler import make_sampler
from runtime.text.tokenizer import Tokenizer
from tests.conftest import REPOSITORY
from tests.runtime.batch.files import read_lines, write_lines
from tests.runtime.files import fails
from tests.signals import heed_ctrl_c

PROMPTS = ["the cat", "a", "the mouse and the cat", "", "a naïve 😀"]
FEW = ["--max-new-tokens", "4", "--seed", "5"]


@pytest.fixture
def prompts(tmp_path):
    """A file of prompts, of which the third line is bad."""
    return write_lines(tmp_path / "in.jsonl", [{"prompt": "the"}, {"prompt": "a"}, "nonsense", {"prompt": "the mouse"}])


def test_batch_gives_a_line_for_each_prompt_in_order(run, tiny_bundle, tmp_path):
    lines = [{"prompt": prompt, "id": number} for number, prompt in enumerate(PROMPTS)]
    lines[1] |= {"max_new_tokens": 3, "seed": 7}
    file = write_lines(tmp_path / "prompts.jsonl", [*lines, ""])
    options = ["--max-new-tokens", "20", "--seed", "5", "--precision", "int8"]
    code, out, err = run("batch", tiny_bundle, file, "--batch-size", "3", *options)
    found = read_lines(out)
    assert (code, err) == (0, "5 lines, none failed\n")
    assert [(line["prompt"], line["id"]) for line in found] == list(zip(PROMPTS, range(5), strict=True))
    bundle = Bundle.open(tiny_bundle)
    session, tokenizer = DecoderSession(bundle, "int8"), Tokenizer(bundle)
    for number, line in enumerate(found):
        seed, tokens = (7, 3) if number == 1 else (5 + number, 20)
        prompt_ids = tokenizer.encode(line["prompt"])
        sampler = make_sampler(SamplingOptions(seed=seed))
        drawn = generate_step(session, prompt_ids, max_new_tokens=tokens, sampler=sampler, stop_token_ids=())
        alone = [token.token_id for token in drawn]
        stops = [place for place, token_id in enumerate(alone) if token_id in bundle.eos_token_ids]
        assert line["token_ids"] == (alone[: stops[0]] if stops else alone)
        assert line["finish_reason"] == ("stop" if stops else "length")
        assert line["prompt"] + line["completion"] == tokenizer.decode(prompt_ids + line["token_ids"])


def test_batch_takes_the_options_of_generate(run, tiny_bundle, tmp_path):
    """Stop strings, penalties, lengths and log-probabilities of a line are those of the same text by itself."""
    file = write_lines(tmp_path / "prompts.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    options = ["--greedy", "--precision", "int8", "--stop", "e", "--repetition-penalty", "1.3", "--min-new-tokens", "2"]
    options += ["--max-new-tokens", "30", "--top-logprobs", "2"]
    code, out, _ = run("batch", tiny_bundle, file, *options)
    assert code == 0
    for prompt, line in zip(PROMPTS, read_lines(out), strict=True):
        alone = json.loads(run("generate", tiny_bundle, "--prompt", prompt, *options, "--json")[1])
        shared = ("completion", "token_ids", "finish_reason", "prompt_tokens", "new_tokens", "logprobs")
        assert {key: line[key] for key in shared} == {key: alone[key] for key in shared}


@pytest.mark.parametrize("options", [["--top-logprobs=-1"], ["--stop-token-id", "320"], ["--batch-size", "0"]])
def test_a_wrong_option_for_all_is_one_line(options, run, tiny_bundle, prompts, tmp_path):
    fails(run("batch", tiny_bundle, prompts, *options))
    fails(run("batch", tiny_bundle, prompts, *options, "--out", tmp_path / "out.jsonl"))
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_an_input_or_a_bundle_that_is_none_is_one_line(run, tiny_bundle, prompts, tmp_path):
    fails(run("batch", tiny_bundle, tmp_path / "nowhere"), "nowhere cannot be read: No such file")
    fails(run("batch", tmp_path / "nowhere", prompts), "there is no folder")
    fails(run("batch", tiny_bundle, prompts, "--precision", "q8"), "it has int8, fp32")
    fails(run("batch", tiny_bundle, prompts, "--out", prompts), "is the input: choose another --out")


def test_a_failed_line_makes_the_exit_code_1_and_ends_nothing(run, tiny_bundle, prompts):
    code, out, err = run("batch", tiny_bundle, prompts, *FEW)
    assert (code, err) == (1, "error: 1 of 4 lines failed; `error` says why\n")
    assert ["error" in line for line in read_lines(out)] == [False, False, True, False]
    assert read_lines(out)[2]["line"] == 3


def test_batch_reads_stdin_and_pipes(run, stdin, tiny_bundle, tmp_path):
    stdin('\ufeff{"prompt": "the\u2028"}\r\n'.encode())
    code, out, _ = run("batch", tiny_bundle, "-", "--max-new-tokens", "2", "--greedy")
    assert code == 0
    assert read_lines(out)[0]["new_tokens"] == 2
    assert read_lines(out)[0]["prompt"] == "the\u2028"


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_an_empty_input_gives_an_empty_output(name, run, tiny_bundle, tmp_path):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    file = write_lines(tmp_path / "in.jsonl", [])
    assert run("batch", tiny_bundle, file)[:2] == (0, "")
    for words in ("0 lines, none failed", "was finished before"):
        code, _, err = run("batch", tiny_bundle, file, "--out", tmp_path / name)
        assert (code, words in err) == (0, True)
    assert name.endswith("parquet") or (tmp_path / name).read_bytes() == b""


def test_a_file_has_what_stdout_has(run, tiny_bundle, prompts, tmp_path):
    printed = run("batch", tiny_bundle, prompts, *FEW)[1]
    out = tmp_path / "out.jsonl"
    code, _, err = run("batch", tiny_bundle, prompts, *FEW, "--out", out)
    assert (code, err) == (1, f"error: {out}: 1 of 4 lines failed; `error` says why\n")
    assert out.read_bytes() == printed.encode()


def test_a_finished_batch_is_not_run_again(run, tiny_bundle, prompts, tmp_path, monkeypatch):
    arguments = ["batch", tiny_bundle, prompts, *FEW, "--out", tmp_path / "out.jsonl"]
    run(*arguments)
    monkeypatch.setattr("runtime.cli.commands._load", None)
    fails(run(*arguments), "out.jsonl was finished before: 1 of 4 lines failed")


def test_another_batchs_output_is_refused_until_overwritten(run, tiny_bundle, prompts, tmp_path):
    out = tmp_path / "out.jsonl"
    run("batch", tiny_bundle, prompts, *FEW, "--out", out)
    before = out.read_bytes()
    fails(run("batch", tiny_bundle, prompts, "--greedy", "--out", out), "written with other options", "--overwrite")
    fails(
        run("batch", tiny_bundle, prompts, *FEW, "--precision", "fp32", "--out", out), "written with another precision"
    )
    assert out.read_bytes() == before
    write_lines(prompts, [{"prompt": "a"}])
    fails(run("batch", tiny_bundle, prompts, *FEW, "--out", out), "written with another input")
    assert run("batch", tiny_bundle, prompts, *FEW, "--out", out, "--overwrite")[0] == 0
    assert len(read_lines(out.read_bytes())) == 1


def command(*arguments):
    return [sys.executable, "-m", "runtime", "batch", *map(str, arguments)]


@pytest.fixture
def many(tmp_path):
    """Enough lines for a process to be killed among them."""
    return write_lines(
        tmp_path / "many.jsonl",
        ["nonsense" if n % 40 == 30 else {"prompt": PROMPTS[n % 5], "max_tokens": 1 + n % 50} for n in range(160)],
    )


def test_a_killed_or_interrupted_batch_goes_on_to_the_same_bytes(run, tiny_bundle, many, tmp_path):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    options = ["--seed", "3", "--threads", "1"]
    run("batch", tiny_bundle, many, *options, "--out", whole)
    partial = tmp_path / "out.jsonl.partial"
    kept = 0
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        child = subprocess.Popen(
            command(tiny_bundle, many, *options, "--out", out),
            cwd=REPOSITORY,
            preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - it takes no lock
        )
        while child.poll() is None and (not partial.exists() or partial.read_bytes().count(b"\n") < kept + 10):
            time.sleep(0.005)
        child.send_signal(number)
        assert child.wait() == code, "it ended before it could be killed: give it more lines"
        assert not out.exists()
        kept = partial.read_bytes().count(b"\n")
    with partial.open("ab") as file:
        file.write(b'{"prompt": "the c')
    code, _, err = run("batch", tiny_bundle, many, *options, "--out", out)
    assert (code, "4 of 160 lines failed" in err) == (1, True)
    assert out.read_bytes() == whole.read_bytes()


def test_a_full_disk_says_what_is_kept_and_how_to_go_on(run, tiny_bundle, prompts, tmp_path):
    """A limit on the size of files stands for the disk."""
    out = tmp_path / "out.jsonl"
    options = ["--seed", "3", "--max-new-tokens", "40", "--top-logprobs", "20", "--threads", "1"]
    run("batch", tiny_bundle, prompts, *options, "--out", tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    limit = whole.index(b"\n") + 100

    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        command(tiny_bundle, prompts, *options, "--out", out),
        cwd=REPOSITORY,
        preexec_fn=small_files,
        capture_output=True,
        text=True,
        check=False,
    )
    fails(
        (done.returncode, done.stdout, done.stderr), "out.jsonl cannot be written: File too large", "keeps the 1 lines"
    )
    assert "the same command goes on from there" in done.stderr
    assert not out.exists()
    run("batch", tiny_bundle, prompts, *options, "--out", out)
    assert out.read_bytes() == whole
