"""`python -m runtime`: what it prints, and one line on stderr where the user erred."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from runtime import SamplingOptions, Scheduler, TextDelta, generation_config
from runtime.evaluation.bench import BenchRow
from tests.runtime.files import edit_json, fails

GENERATE_KEYS = {
    "text",
    "completion",
    "token_ids",
    "finish_reason",
    "prompt_tokens",
    "new_tokens",
    "time_to_first_token_seconds",
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
}


@pytest.mark.parametrize("prompt", ["", "the cat", "a naïve 😀"])
def test_generate_json_is_one_consistent_object(prompt, run, tiny_bundle):
    options = ["--seed", "1", "--max-new-tokens", "12", "--precision", "fp32"]
    code, out, err = run("generate", tiny_bundle, "--prompt", prompt, *options, "--json")
    result = json.loads(out)
    assert (code, err) == (0, "")
    assert set(result) == GENERATE_KEYS
    assert result["new_tokens"] == len(result["token_ids"])
    assert result["text"] == prompt + result["completion"]
    assert result["finish_reason"] in ("stop", "length")
    assert result["prompt_tokens"] >= 1
    assert result["time_to_first_token_seconds"] > 0
    assert result["prefill_tokens_per_second"] > 0
    assert run("generate", tiny_bundle, "--prompt", prompt, *options) == (0, result["text"] + "\n", "")


def test_a_prompt_may_come_from_stdin(run, stdin, tiny_bundle):
    options = ["--greedy", "--max-new-tokens", "5"]
    stdin("the café".encode())
    assert run("generate", tiny_bundle, "--prompt", "-", *options) == run(
        "generate", tiny_bundle, "--prompt", "the café", *options
    )


def test_stop_strings_end_the_printed_text(run, tiny_bundle):
    options = ["--prompt", "the", "--greedy", "--max-new-tokens", "30", "--json"]
    text = json.loads(run("generate", tiny_bundle, *options)[1])["completion"]
    stop = text[3:5]
    result = json.loads(run("generate", tiny_bundle, *options, "--stop", "never there", "--stop", stop)[1])
    assert result["completion"] == text[: text.find(stop)]
    assert result["finish_reason"] == "stop"


def test_log_probabilities_come_with_the_json_or_on_stderr(run, tiny_bundle):
    options = ["--prompt", "the", "--greedy", "--max-new-tokens", "4", "--top-logprobs", "2"]
    result = json.loads(run("generate", tiny_bundle, *options, "--json")[1])
    assert set(result) == GENERATE_KEYS | {"logprobs"}
    assert [entry["token_id"] for entry in result["logprobs"]] == result["token_ids"]
    for entry in result["logprobs"]:
        assert set(entry) == {"token_id", "text", "logprob", "top"}
        assert entry["logprob"] < 0
        assert [set(other) for other in entry["top"]] == [{"token_id", "text", "logprob"}] * 2
    _, out, err = run("generate", tiny_bundle, *options)
    assert out == result["text"] + "\n"
    assert err.count("\n") == result["new_tokens"]


@pytest.mark.parametrize("command", ["generate", "chat", "batch"])
def test_help_has_every_option_with_the_runtimes_default_and_meaning(command, run):
    code, out, _ = run(command, "--help")
    words = " ".join(out.split())
    assert code == 0
    for option in fields(SamplingOptions):
        assert " ".join(option.metadata["meaning"].split())[:30] in words
        if isinstance(option.default, (int, float)):
            assert f"--{option.name.replace('_', '-')} " in words
            own = option.name in generation_config.NAMES
            source = "default: the model's own (generation_config.json), else" if own else "default"
            assert f"({source} {option.default})" in words
    assert "else 256 or what the context has room for" in words


def test_every_option_reaches_the_model(run, tiny_bundle, monkeypatch, tmp_path):
    taken = []

    def stream(self, prompt, sampling, **_):
        taken.append(sampling)
        return iter([TextDelta("", None, "stop")])

    monkeypatch.setattr("runtime.language_model.LanguageModel.stream", stream)
    (tmp_path / "schema.json").write_text("{}")
    expected = {
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.5,
        "min_p": 0.25,
        "typical_p": 0.75,
        "repetition_penalty": 1.5,
        "frequency_penalty": -0.5,
        "presence_penalty": 0.5,
        "no_repeat_ngram_size": 3,
        "max_new_tokens": 9,
        "min_new_tokens": 2,
        "top_logprobs": 1,
        "seed": 7,
    }
    numbers = [f"--{name.replace('_', '-')}={value}" for name, value in expected.items()]
    others = ["--logit-bias=3=-inf", "--logit-bias", "4=1.5", "--stop", "a", "--stop", "b", "--stop-token-id", "5"]
    assert run("generate", tiny_bundle, *numbers, *others, "--json-schema", tmp_path / "schema.json")[0] == 0
    more = {"logit_bias": {3: float("-inf"), 4: 1.5}, "stop_strings": ("a", "b"), "stop_token_ids": (5,)}
    assert taken == [SamplingOptions(**expected, **more, json_schema="{}")]
    assert run("generate", tiny_bundle, "--logit-bias", "4")[0] == 2


def test_bench_json_is_a_row_for_each_precision(run, tiny_bundle):
    sizes = ["--prompt-tokens", "16", "--new-tokens", "4", "--depth", "8", "--repeats", "2", "--threads", "1"]
    code, out, err = run("bench", tiny_bundle, *sizes, "--json")
    rows = json.loads(out)
    assert (code, err) == (0, "")
    assert [row["precision"] for row in rows] == ["int8", "fp32"]
    for row in rows:
        assert set(row) == set(BenchRow.__dataclass_fields__)
        assert (row["threads"], row["prompt_tokens"], row["new_tokens"], row["depth"]) == (1, 16, 4, 8)
        assert row["prefill_tokens_per_second"] > 0
        assert row["decode_tokens_per_second"] > 0
        assert row["prefill_tokens_per_second_std"] >= 0
    assert len(json.loads(run("bench", tiny_bundle, *sizes, "--precision", "fp32", "--json")[1])) == 1


def test_bench_prints_a_table_that_fits_the_context_by_itself(run, tiny_bundle):
    code, out, _ = run("bench", tiny_bundle, "--repeats", "1", "--precision", "fp32")
    header, row = out.splitlines()
    assert code == 0
    assert header.split()[0] == "precision"
    assert row.split()[:4] == ["fp32", row.split()[1], "0", "96"]


@pytest.mark.parametrize("command", [["chat"], ["generate", "--prompt", "-"]])
def test_stdin_that_is_not_utf8_is_an_error(command, run, stdin, tiny_bundle):
    stdin(b"\xff\xfe\n")
    fails(run(command[0], tiny_bundle, *command[1:]), "stdin is not UTF-8")


def test_an_error_of_many_lines_is_printed_as_one(run, stdin, broken_bundle):
    edit_json(broken_bundle / "tokenizer_config.json", chat_template="{{ raise_exception('one\ntwo\n\nthree') }}")
    stdin(b"hello\n")
    fails(run("chat", broken_bundle), "one two three")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--temperature", "-1"], "temperature must be"),
        (["--temperature", "nan"], "temperature must be"),
        (["--temperature", "inf"], "temperature must be"),
        (["--top-k", "-1"], "top_k must be"),
        (["--top-p", "0"], "top_p must be"),
        (["--top-p", "nan"], "top_p must be"),
        (["--min-p", "1"], "min_p must be"),
        (["--repetition-penalty", "0"], "repetition_penalty must be"),
        (["--typical-p", "0"], "typical_p must be"),
        (["--frequency-penalty", "nan"], "frequency_penalty must be"),
        (["--no-repeat-ngram-size", "-1"], "no_repeat_ngram_size must be"),
        (["--logit-bias", "320=1"], "logit_bias has a token id 320"),
        (["--stop-token-id", "320"], "stop_token_ids must lie in"),
        (["--min-new-tokens", "300"], "min_new_tokens 300 is more than"),
        (["--top-logprobs", "-1"], "top_logprobs must be"),
        (["--seed", "-1"], "seed must be"),
        (["--greedy", "--temperature", "1"], "--greedy and --temperature contradict"),
        (["--max-new-tokens", "0"], "max_new_tokens must be at least 1"),
        (["--max-new-tokens", "192"], "ask for at most 191"),
        (["--precision", "q8"], "it has int8, fp32"),
        (["--threads", "0"], "threads must be at least 1"),
        (["--stop", ""], "stop string must not be empty"),
        (["--prompt", "x" * 400], "the model's context is 192"),
        (["--prompt", "\udcff"], "not valid Unicode"),
    ],
)
def test_a_wrong_option_of_generate_is_one_line(options, words, run, tiny_bundle):
    fails(run("generate", tiny_bundle, *options), words)
    fails(run("generate", tiny_bundle, *options, "--json"), words)


@pytest.mark.parametrize(
    "options", [["--top-k", "1" + "0" * 30], ["--temperature", "1e-40"], ["--temperature", "1e300"]]
)
def test_an_extreme_option_still_gives_text(options, run, tiny_bundle):
    code, out, err = run("generate", tiny_bundle, "--prompt", "the", "--max-new-tokens", "4", "--seed", "1", *options)
    assert (code, err) == (0, "")
    assert out.startswith("the")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--prompt-tokens", "0"], "prompt_tokens must be at least 1"),
        (["--new-tokens", "0"], "new_tokens must be at least 1"),
        (["--new-tokens", "-5"], "new_tokens must be at least 1"),
        (["--depth", "-1"], "depth must be at least 0"),
        (["--repeats", "0"], "repeats must be at least 1"),
        (["--prompt-tokens", "190"], "the model's context is 192"),
        (["--precision", "q4"], "it has int8, fp32"),
    ],
)
def test_a_wrong_option_of_bench_is_one_line(options, words, run, tiny_bundle):
    fails(run("bench", tiny_bundle, *options), words)


@pytest.mark.parametrize(
    "arguments",
    [[], ["nothing"], ["generate"], ["generate", "b", "--no-such-option"], ["generate", "b", "--top-k", "many"]],
)
def test_wrong_usage_is_code_2_with_the_usage(arguments, run):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: python -m runtime")


@pytest.mark.parametrize("command", ["generate", "chat", "bench"])
def test_a_bundle_that_is_none_is_one_line(command, run, tiny_bundle, tmp_path):
    fails(run(command, tmp_path / "nowhere"), "there is no folder", "nowhere")
    fails(run(command, tiny_bundle / "config.json"), "is a file")
    fails(run(command, tmp_path), "config.json")


@pytest.mark.parametrize("path", ["onnx/model_int8.onnx", "tokenizer.json", "config.json", "generation_config.json"])
def test_a_file_that_was_cut_off_is_one_line(path, run, broken_bundle):
    file = broken_bundle / path
    file.write_bytes(file.read_bytes()[:-40])
    fails(run("generate", broken_bundle, "--prompt", "the"), file.name)


def test_a_fault_of_ours_shows_its_traceback(run, tiny_bundle, monkeypatch):
    def broken(*_, **__):
        raise AssertionError("ours")

    monkeypatch.setattr(Scheduler, "step", broken)
    with pytest.raises(AssertionError, match="ours"):
        run("generate", tiny_bundle)


def test_ctrl_c_is_code_130_without_a_word(run, tiny_bundle, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Scheduler, "step", interrupted)
    assert run("generate", tiny_bundle)[::2] == (130, "")
