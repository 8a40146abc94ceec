"""The worker: what each line gives is what it gives alone, in order, and no line ends another."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest

from runtime import DecoderSession, LanguageModel, SamplingOptions
from runtime.batch.line_options import line_options
from runtime.batch.worker import MAX_LINES_AHEAD, BatchWorker
from runtime.errors import ConstraintError, OptionError
from tests.runtime.batch.files import input_lines
from tests.runtime.options import endless, greedy

PROMPTS = ["the cat", "a", "the mouse and the cat", "", "a naïve 😀", "on the mat", "dog", "x y z", "the the", "1 2 3"]


@pytest.fixture(scope="module")
def model(tiny_bundle):
    return LanguageModel.load(tiny_bundle, precision="int8", threads=1)


def results(model, records, sampling=None, **options):
    worker = BatchWorker(model, sampling or greedy(max_new_tokens=8), **options)
    return [result.added for result in worker.run(input_lines(records))]


def varied_records():
    """Lines of different lengths and options."""
    return [
        {"prompt": prompt, "max_tokens": 3 + 5 * (number % 4), "temperature": number % 3 / 2, "seed": number}
        | ({"stop": "e"} if number % 2 else {})
        | ({"repetition_penalty": 1.3, "min_new_tokens": 2} if number % 5 == 0 else {})
        for number, prompt in enumerate(PROMPTS)
    ]


def assert_lines_are_what_they_are_alone(model, batch_size):
    records = varied_records()
    for record, added in zip(records, results(model, records, batch_size=batch_size), strict=True):
        alone = model.generate(record["prompt"], line_options(record, greedy(), 0))
        assert added == {
            "completion": alone.text,
            "token_ids": alone.token_ids,
            "finish_reason": alone.finish_reason,
            "prompt_tokens": alone.prompt_tokens,
            "new_tokens": alone.new_tokens,
        }


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_line_has_the_tokens_that_it_has_alone(batch_size, model):
    assert_lines_are_what_they_are_alone(model, batch_size)


def test_a_line_has_the_tokens_that_it_has_alone_in_int8_kv8(int8_cache_bundle):
    model = LanguageModel.load(int8_cache_bundle, precision="int8-kv8", threads=1)
    assert_lines_are_what_they_are_alone(model, 4)


def test_a_chat_is_rendered_without_a_second_bos(model):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    (added,) = results(model, [{"messages": messages}])
    alone = list(model.chat(messages, greedy(max_new_tokens=8)))
    assert added["completion"] == "".join(delta.text for delta in alone)
    assert added["token_ids"] == [delta.token_id for delta in alone if delta.token_id is not None]


def test_a_text_that_a_stop_token_ends_keeps_what_was_held_back(model):
    text = model.generate("the cat", endless(max_new_tokens=8))
    record = {"prompt": "the cat", "stop_token_ids": [text.token_ids[5]], "stop": "never there"}
    (added,) = results(model, [record])
    alone = model.generate("the cat", greedy(stop_token_ids=[text.token_ids[5]], max_new_tokens=8))
    assert (added["completion"], added["finish_reason"]) == (alone.text, "stop")


def test_a_shared_prefix_is_computed_once(int8_cache_bundle, calls):
    model = LanguageModel.load(int8_cache_bundle, precision="int8-kv8", threads=1)
    system = "Once upon a time there was a little girl who " * 3
    prompts = [system + word for word in ("ran", "slept", "sang", "hid")]
    lengths = [len(model.tokenizer.encode(prompt)) for prompt in prompts]
    results(model, [{"prompt": prompt} for prompt in prompts], greedy(max_new_tokens=1))
    assert sum(calls) < lengths[0] + 4 * 8


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({}, "either a prompt or messages"),
        ({"prompt": None}, "either a prompt or messages"),
        ({"prompt": "a", "messages": []}, "either a prompt or messages"),
        ({"prompt": ["a"]}, "prompt must be a text"),
        ({"messages": []}, "messages must be a list of objects"),
        ({"messages": "hi"}, "messages must be a list of objects"),
        ({"messages": [{"role": "user"}]}, "messages must be a list of objects"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages must be a list of objects"),
        ({"prompt": "x" * 400}, "the model's context is 192"),
        ({"prompt": "x" * 10**6}, "the model's context is 192"),
        ({"prompt": "\ud800"}, "not valid Unicode"),
        ({"prompt": "a", "max_tokens": 500}, "ask for at most"),
        ({"prompt": "a", "stop_token_ids": [999]}, "stop_token_ids must lie in 0..319"),
        ({"prompt": "a", "logit_bias": {"999": 1}}, "logit_bias has a token id 999"),
        ({"prompt": "a", "min_new_tokens": 9}, "min_new_tokens 9 is more than the 8"),
        ({"prompt": "a", "temprature": 1}, "write temperature"),
        ({"prompt": "a", "top_p": 2}, "top_p must be a number"),
        ({"prompt": "a", "completion": "b"}, "the output has a key completion of its own; rename or remove the line's"),
        ({"prompt": "a", "line": 3}, "the output has a key line of its own"),
        ({"prompt": "a", "logprobs": True}, "top_logprobs asks for them"),
    ],
)
def test_a_bad_line_has_an_error_in_its_place(record, words, model):
    before, bad, after = results(model, [{"prompt": "the"}, record, {"prompt": "the"}])
    assert before == after
    assert before["new_tokens"] == 8
    assert set(bad) == {"line", "error"}
    assert bad["line"] == 2
    assert words in bad["error"]


def test_a_schema_that_nothing_satisfies_fails_its_line_alone(model):
    pytest.importorskip("llguidance")
    records = [
        {"prompt": "a", "json_schema": schema} for schema in (False, {"type": "boolean"}, {"type": "nonsense"}, "{")
    ]
    none, boolean, invalid, broken = results(model, records)
    assert "Unsatisfiable schema" in none["error"]
    assert boolean["completion"] in ("true", "false")
    assert "json_schema" in invalid["error"]
    assert "json_schema is not JSON" in broken["error"]


def test_without_llguidance_a_lines_error_names_it(tiny_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    model = LanguageModel.load(tiny_bundle, precision="int8", threads=1)
    constrained, free = results(model, [{"prompt": "a", "regex": "b"}, {"prompt": "a"}])
    assert "pip install llguidance" in constrained["error"]
    assert "error" not in free


def test_logits_that_are_nan_fail_their_line_alone(model, monkeypatch):
    forward = DecoderSession.forward

    def broken(self, token_ids, cache, **options):
        logits = forward(self, token_ids, cache, **options)
        return np.full_like(logits, np.nan) if len(token_ids) > 5 else logits

    monkeypatch.setattr(DecoderSession, "forward", broken)
    failed, good = results(model, [{"prompt": "the mouse and the cat"}, {"prompt": "a"}])
    assert "NaN" in failed["error"]
    assert good["new_tokens"] == 8


def test_a_line_that_forbids_every_token_fails_alone(model):
    everything = ", ".join(f'"{token_id}": -1e999' for token_id in range(320))
    nothing, text = results(model, [f'{{"prompt": "a", "logit_bias": {{{everything}}}}}', {"prompt": "a"}])
    assert "every token is forbidden" in nothing["error"]
    assert text["new_tokens"] == 8


def test_a_processor_that_raises_fails_its_line_alone(model, monkeypatch):
    def raising(tokens, prompt_tokens, stop_token_ids):
        def process(token_ids, logits):
            if len(token_ids) - prompt_tokens == 3:
                raise ZeroDivisionError("of ours")
            return logits

        return process

    monkeypatch.setattr("runtime.sampling.logits_processors.min_new_tokens", raising)
    failed, good = results(model, [{"prompt": "a", "min_new_tokens": 1}, {"prompt": "a"}])
    assert failed == {"line": 1, "error": "ZeroDivisionError: of ours"}
    assert good["new_tokens"] == 8


@pytest.mark.parametrize(
    ("sampling", "error"),
    [
        (SamplingOptions(logit_bias={999: 1.0}), OptionError),
        (SamplingOptions(max_new_tokens=500), OptionError),
        (SamplingOptions(regex="("), ConstraintError),
    ],
)
def test_options_that_suit_no_line_are_refused_at_once(sampling, error, model):
    pytest.importorskip("llguidance")
    with pytest.raises(error):
        BatchWorker(model, sampling)
    with pytest.raises(OptionError, match="batch_size must be at least 1, not 0"):
        BatchWorker(model, greedy(), batch_size=0)


def test_lines_are_read_as_they_are_needed(model):
    read = []

    def endless_lines():
        for number in itertools.count():
            read.append(number)
            yield from input_lines([{"prompt": "a"}])

    stream = BatchWorker(model, greedy(max_new_tokens=2), batch_size=2).run(endless_lines())
    for _ in range(10):
        next(stream)
    assert len(read) <= 10 + 3 * 2
    stream.close()


def test_a_long_line_does_not_let_the_others_pile_up(model):
    read = []

    def lines():
        for number in range(3 * MAX_LINES_AHEAD):
            read.append(number)
            yield from input_lines([{"prompt": "a", "max_tokens": 185 if number == 0 else 1}])

    stream = BatchWorker(model, endless(), batch_size=8).run(lines())
    next(stream)
    assert len(read) <= MAX_LINES_AHEAD
    stream.close()


def test_log_probabilities_are_those_that_the_line_has_alone(model):
    asked, other = results(model, [{"prompt": "the cat", "top_logprobs": 2}, {"prompt": "a"}])
    alone = model.generate("the cat", greedy(max_new_tokens=8, top_logprobs=2))
    assert [entry["logprob"] for entry in asked["logprobs"]] == alone.logprobs
    tops = [[(top["token_id"], top["logprob"]) for top in entry["top"]] for entry in asked["logprobs"]]
    assert tops == [list(map(tuple, top)) for top in alone.top_logprobs]
    assert "logprobs" not in other
