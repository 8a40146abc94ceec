"""`bench` and `perplexity`: what they print, and one line on stderr where the user erred."""

from __future__ import annotations

import json

import pytest

from runtime import Bundle, DecoderSession
from runtime.evaluation.bandwidth import read_bandwidth
from runtime.evaluation.bench import BenchRow
from tests.runtime.files import fails

SIZES = ["--prompt-tokens", "16", "--new-tokens", "4", "--repeats", "2", "--threads", "1"]


@pytest.fixture(autouse=True)
def quick_bandwidth(monkeypatch):
    """The real one reads 256 MB several times."""
    monkeypatch.setattr("runtime.evaluation.bench_sweep.read_bandwidth", lambda threads: threads * 1e9)


def test_bench_measures_every_combination_of_its_lists(run, tiny_bundle):
    lists = ["--prompt-tokens", "4,8", "--new-tokens", "2", "--depth", "0,16", "--threads", "1,2", "--repeats", "1"]
    code, out, err = run("bench", tiny_bundle, "--precision", "fp32", *lists, "--json")
    rows = json.loads(out)
    assert (code, err) == (0, "")
    found = [(row["threads"], row["depth"], row["prompt_tokens"]) for row in rows]
    assert found == [(threads, depth, prompt) for threads in (1, 2) for depth in (0, 16) for prompt in (4, 8)]


def test_a_row_of_bench_tells_the_floor_and_the_share_of_python(run, tiny_bundle):
    (row,) = json.loads(run("bench", tiny_bundle, *SIZES, "--precision", "int8", "--json")[1])
    assert set(row) == set(BenchRow.__dataclass_fields__)
    assert 0 < row["python_share"] < 1
    bundle = Bundle.open(tiny_bundle)
    # 16 of the prompt, and half of the 4 new ones on average.
    assert (
        row["decode_bytes_per_token"]
        == bundle.file_bytes("int8") + 18 * DecoderSession(bundle, "int8").cache_bytes_per_token
    )
    assert row["bandwidth_bytes_per_second"] == 1e9
    expected = row["decode_bytes_per_token"] * row["decode_tokens_per_second"] / 1e9
    assert row["bandwidth_share"] == pytest.approx(expected)


def test_bench_prints_markdown(run, tiny_bundle):
    code, out, _ = run("bench", tiny_bundle, *SIZES, "--markdown")
    header, rule, *rows = out.splitlines()
    assert code == 0
    assert len(rows) == 2
    assert {line.count("|") for line in (header, rule, *rows)} == {11}
    assert set(rule) <= set("|-: ")


@pytest.mark.parametrize(
    ("options", "words"), [(["--depth", "0,500"], "context is 192"), (["--threads", "1,0"], "threads must be")]
)
def test_a_combination_that_cannot_be_is_refused(options, words, run, tiny_bundle):
    fails(run("bench", tiny_bundle, "--repeats", "1", *options), words)


def test_a_list_that_is_none_is_usage(run, tiny_bundle):
    code, _, err = run("bench", tiny_bundle, "--depth", "1,two")
    assert code == 2
    assert "no list of integers" in err


def test_the_bandwidth_is_a_speed():
    assert read_bandwidth(2, read_bytes=2**22, repeats=1) > 1e6


def test_perplexity_of_a_text_file(run, tiny_bundle, tmp_path):
    text = tmp_path / "story.txt"
    text.write_text("The cat sat on the mat, and the mouse ran away. " * 12)
    options = ["--text", text, "--window", "64", "--precision", "int8", "--against", "fp32"]
    code, out, err = run("perplexity", tiny_bundle, *options, "--json")
    result = json.loads(out)
    assert (code, err) == (0, "")
    assert (result["precision"], result["against"], result["window"], result["stride"]) == ("int8", "fp32", 64, 32)
    assert result["interval"][0] < result["perplexity"] < result["interval"][1]
    assert result["kl"] > 0
    code, out, _ = run("perplexity", tiny_bundle, *options)
    assert code == 0
    assert f"int8: perplexity {result['perplexity']:.4f}" in out
    assert "KL(fp32 || int8)" in out


@pytest.mark.parametrize(
    ("contents", "options", "words"),
    [
        (b"", [], "empty"),
        (b"\xff\xfe", [], "not UTF-8"),
        (b"the cat", ["--window", "1"], "window must lie in"),
        (b"the cat", ["--against", "q8"], "it has int8, fp32"),
        (b"the cat", ["--max-tokens", "1"], "fewer than two tokens"),
        (None, [], "No such file"),
    ],
)
def test_a_text_that_cannot_be_measured_is_one_line(contents, options, words, run, tiny_bundle, tmp_path):
    text = tmp_path / "story.txt"
    if contents is not None:
        text.write_bytes(contents)
    if contents == b"":
        options, words = ["--max-tokens", "1"], "fewer than two tokens"
    fails(run("perplexity", tiny_bundle, "--text", text, *options), words)
