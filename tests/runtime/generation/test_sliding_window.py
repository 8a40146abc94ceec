"""Texts past the context: exact up to its end, then as a plain twin computes them from half a context."""

import json
from dataclasses import replace

import pytest

from runtime import LanguageModel, SamplingOptions
from runtime.__main__ import main
from runtime.errors import PromptError

GREEDY = SamplingOptions(temperature=0.0, max_new_tokens=400, stop_token_ids=())
CONTEXT = 192
PROMPT = [5, 17, 3, 40]


@pytest.fixture(scope="module")
def model(tiny_bundle):
    return LanguageModel.load(tiny_bundle, precision="fp32")


def ids_of(deltas):
    return [delta.token_id for delta in deltas if delta.token_id is not None]


def test_a_text_slides_as_the_plain_twin_does_and_is_exact_before(model):
    expected, start = list(PROMPT), 0
    while len(expected) < len(PROMPT) + 400:
        if len(expected) - start == CONTEXT:
            start = len(expected) - CONTEXT // 2
        cache = model.session.new_cache()
        expected.append(int(model.session.forward(expected[start:], cache)[-1].argmax()))
    assert ids_of(model.stream_past_context(PROMPT, GREEDY)) == expected[len(PROMPT) :]
    within = replace(GREEDY, max_new_tokens=CONTEXT - len(PROMPT))
    assert expected[len(PROMPT) : CONTEXT] == ids_of(model.stream(PROMPT, within))


def test_a_prompt_may_be_longer_than_the_context(model):
    long = [*PROMPT] * 100
    few = replace(GREEDY, max_new_tokens=5)
    assert ids_of(model.stream_past_context(long, few)) == ids_of(model.stream(long[-CONTEXT // 2 :], few))
    with pytest.raises(PromptError, match="shorten it until there is room"):
        model.stream(long, few)


def test_seeds_stop_strings_and_penalties_go_on_across_windows(model):
    drawn = replace(GREEDY, temperature=1.0, seed=3, max_new_tokens=300, repetition_penalty=1.2)
    texts = ["".join(delta.text for delta in model.stream_past_context(PROMPT, drawn)) for _ in range(2)]
    assert texts[0] == texts[1]
    stop = texts[0][-6:-2]
    stopped = list(model.stream_past_context(PROMPT, replace(drawn, stop_strings=(stop,))))
    assert "".join(delta.text for delta in stopped) == texts[0][: texts[0].index(stop)]
    assert stopped[-1].finish_reason == "stop"


def test_a_text_is_cancelled_and_ends_by_its_length(model):
    asked = iter([False] * 250 + [True])
    deltas = list(model.stream_past_context(PROMPT, GREEDY, is_cancelled=lambda: next(asked)))
    assert (deltas[-1].finish_reason, len(ids_of(deltas))) == ("cancelled", 250)
    assert list(model.stream_past_context(PROMPT, GREEDY))[-1].finish_reason == "length"


def test_generate_slides_where_it_is_told_to(tiny_bundle, capsys):
    command = ["generate", str(tiny_bundle), "--prompt", "the", "--greedy", "--max-new-tokens", "300", "--json"]
    assert main(command) == 1
    assert "exceed the model's context" in capsys.readouterr().err
    assert main([*command, "--sliding-window"]) == 0
    assert json.loads(capsys.readouterr().out)["new_tokens"] <= 300
