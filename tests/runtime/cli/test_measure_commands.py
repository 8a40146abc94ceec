"""`bench`, `perplexity` and `batch`: what they print, and one line on stderr where the user erred."""

from __future__ import annotations

import json

import pytest

from runtime import Bundle, DecoderSession, SamplingOptions, generate_step
from runtime.evaluation.bandwidth import read_bandwidth
from runtime.evaluation.bench import BenchRow
from runtime.sampling.sampler import make_sampler
from runtime.text.tokenizer import Tokenizer
from tests.runtime.files import fails
from tests.runtime.options import token_ids

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


def test_batch_gives_a_line_for_each_prompt_in_order(run, tiny_bundle, tmp_path):
    prompts = ["the cat", "a", "the mouse and the cat", "", "a naïve 😀"]
    lines = [{"prompt": prompt, "id": number} for number, prompt in enumerate(prompts)]
    lines[1] |= {"max_new_tokens": 3, "seed": 7}
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n", encoding="utf-8")
    options = ["--max-new-tokens", "20", "--seed", "5", "--precision", "int8"]
    code, out, err = run("batch", tiny_bundle, file, "--batch-size", "3", *options)
    found = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [(line["prompt"], line["id"]) for line in found] == list(zip(prompts, range(5), strict=True))
    bundle = Bundle.open(tiny_bundle)
    session, tokenizer = DecoderSession(bundle, "int8"), Tokenizer(bundle)
    for number, line in enumerate(found):
        seed, tokens = (7, 3) if number == 1 else (5 + number, 20)
        prompt_ids = tokenizer.encode(line["prompt"])
        sampler = make_sampler(SamplingOptions(seed=seed))
        alone = token_ids(generate_step(session, prompt_ids, max_new_tokens=tokens, sampler=sampler))
        stops = [place for place, token_id in enumerate(alone) if token_id in bundle.eos_token_ids]
        assert line["token_ids"] == (alone[: stops[0]] if stops else alone)
        assert line["finish_reason"] == ("stop" if stops else "length")
        assert line["prompt"] + line["completion"] == tokenizer.decode(prompt_ids + line["token_ids"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", "line 2 is no JSON"),
        ('["a"]', "line 2 must be an object with a text"),
        ('{"text": "a"}', "line 2 must be an object with a text"),
        ('{"prompt": "a", "seed": "x"}', "line 2: seed must be an integer"),
        ('{"prompt": "a", "max_new_tokens": 0}', "request 2: max_new_tokens must be at least 1"),
        ('{"prompt": "a", "seed": -1}', "request 2: seed must be 0 or above"),
        (json.dumps({"prompt": "x" * 400}), "request 2: the prompt has"),
    ],
)
def test_a_bad_line_is_refused_before_anything_runs(line, words, run, tiny_bundle, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'{{"prompt": "the"}}\n{line}\n')
    fails(run("batch", tiny_bundle, file), words)


def test_batch_reads_stdin(run, stdin, tiny_bundle):
    stdin(b'{"prompt": "the"}\n')
    code, out, _ = run("batch", tiny_bundle, "-", "--max-new-tokens", "2", "--greedy")
    assert code == 0
    assert json.loads(out)["new_tokens"] == 2


def test_batch_takes_the_options_of_generate(run, tiny_bundle, tmp_path):
    """Stop strings, penalties and lengths of a row are those of the same text by itself."""
    prompts = ["the cat", "a", "the mouse and the cat"]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in prompts))
    options = ["--stop", "e", "--repetition-penalty", "1.3", "--min-new-tokens", "2", "--max-new-tokens", "30"]
    code, out, _ = run("batch", tiny_bundle, file, "--greedy", "--precision", "int8", *options)
    assert code == 0
    for prompt, line in zip(prompts, map(json.loads, out.splitlines()), strict=True):
        alone = run("generate", tiny_bundle, "--prompt", prompt, "--greedy", "--precision", "int8", *options, "--json")[
            1
        ]
        for key in ("completion", "token_ids", "finish_reason", "prompt_tokens"):
            assert line[key] == json.loads(alone)[key]
        assert "e" not in line["completion"]
