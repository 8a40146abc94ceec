"""/v1/completions by OpenAI's own client: what it brings is what the runtime gives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runtime import LanguageModel, SamplingOptions
from tests.app.api.serving import Served, served

PROMPT = "The mouse"
GREEDY = SamplingOptions(temperature=0, max_new_tokens=12)


def test_greedy_text_and_usage_are_the_runtimes(api: Served, client) -> None:
    expected = api.model.generate(PROMPT, GREEDY)
    found = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=12, temperature=0)
    assert found.object == "text_completion"
    assert found.model == "tiny"
    assert (found.choices[0].text, found.choices[0].finish_reason) == (expected.text, "length")
    assert found.usage.prompt_tokens == expected.prompt_tokens
    assert found.usage.completion_tokens == 12
    assert found.usage.total_tokens == expected.prompt_tokens + 12


def test_a_stream_joins_to_the_whole_and_tells_the_usage_last(api: Served, client) -> None:
    whole = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=40, seed=7)
    chunks = list(
        client.completions.create(
            model="tiny", prompt=PROMPT, max_tokens=40, seed=7, stream=True, stream_options={"include_usage": True}
        )
    )
    *parts, last = chunks
    assert "".join(chunk.choices[0].text for chunk in parts) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in parts] == [None] * (len(parts) - 1) + ["length"]
    assert len(parts) > 10
    assert (last.choices, last.usage.completion_tokens) == ([], 40)
    assert {chunk.usage for chunk in parts} == {None}
    assert len({chunk.id for chunk in chunks}) == 1


def test_options_reach_the_sampler(api: Served, client) -> None:
    options = SamplingOptions(
        temperature=1.3,
        top_k=40,
        top_p=0.9,
        min_p=0.01,
        typical_p=0.95,
        repetition_penalty=1.2,
        frequency_penalty=0.3,
        presence_penalty=0.2,
        logit_bias={5: -100.0, 7: 2.0},
        stop_strings=("xyz", "e"),
        max_new_tokens=30,
        seed=11,
    )
    found = client.completions.create(
        model="tiny",
        prompt=PROMPT,
        temperature=1.3,
        top_p=0.9,
        frequency_penalty=0.3,
        presence_penalty=0.2,
        logit_bias={"5": -100, "7": 2},
        stop=["xyz", "e"],
        max_tokens=30,
        seed=11,
        extra_body={"top_k": 40, "min_p": 0.01, "typical_p": 0.95, "repetition_penalty": 1.2},
    )
    expected = api.model.generate(PROMPT, options)
    assert (found.choices[0].text, found.choices[0].finish_reason) == (expected.text, expected.finish_reason)
    assert "e" not in found.choices[0].text


def test_n_texts_of_each_prompt_are_those_of_consecutive_seeds(api: Served, client) -> None:
    prompts = [PROMPT, api.model.tokenizer.encode("A cat")]
    texts = [
        api.model.generate(prompt, SamplingOptions(max_new_tokens=9, seed=seed)).text
        for prompt in prompts
        for seed in (5, 6)
    ]
    for stream in (False, True):
        found = [
            client.completions.create(model="tiny", prompt=prompt, n=2, seed=5, max_tokens=9, stream=stream)
            for prompt in prompts
        ]
        assert [text for answer in found for text in joined(answer, 2, stream)] == texts
    both = client.completions.create(model="tiny", prompt=[PROMPT, "A cat"], n=2, seed=5, max_tokens=9)
    assert [choice.text for choice in both.choices] == texts
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert both.usage.prompt_tokens == sum(len(api.model.tokenizer.encode(prompt)) for prompt in (PROMPT, "A cat"))


def joined(answer, count: int, is_stream: bool) -> list[str]:
    if not is_stream:
        return [choice.text for choice in answer.choices]
    texts = [""] * count
    for chunk in answer:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    return texts


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_the_models_own(api: Served, client, stream) -> None:
    expected = api.model.generate(PROMPT, replace(GREEDY, top_logprobs=3))
    answer = client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=12, temperature=0, logprobs=3, stream=stream
    )
    found = [chunk.choices[0].logprobs for chunk in (answer if stream else [answer])]
    logprobs = [logprob for part in found if part for logprob in part.token_logprobs]
    assert logprobs == pytest.approx(expected.logprobs)
    tops = [top for part in found if part for top in part.top_logprobs]
    assert [max(top.values()) for top in tops] == pytest.approx([top[0].logprob for top in expected.top_logprobs])
    offsets = [offset for part in found if part for offset in part.text_offset]
    assert offsets == sorted(offsets)
    assert len(offsets) == 12


def test_echo_repeats_the_prompt(client) -> None:
    plain = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=5, temperature=0)
    echoed = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=5, temperature=0, echo=True)
    chunks = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=5, temperature=0, echo=True, stream=True)
    assert echoed.choices[0].text == PROMPT + plain.choices[0].text
    assert joined(chunks, 1, is_stream=True) == [echoed.choices[0].text]


def test_a_completion_has_openais_16_tokens_unless_told(client) -> None:
    assert client.completions.create(model="tiny", prompt=PROMPT).usage.completion_tokens == 16


def test_a_prefix_is_computed_once_unless_the_client_forbids_it(api: Served) -> None:
    prompt = {"prompt": "A long story about nothing at all, told twice. " * 2, "max_tokens": 2}
    with api.client() as client:
        alone = [client.post("/v1/completions", json={**prompt, "cache_prompt": False}).json() for _ in range(2)]
        shared = [client.post("/v1/completions", json=prompt).json() for _ in range(2)]
    cached = [answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in alone + shared]
    assert cached[:3] == [0, 0, 0]
    assert cached[3] >= 16
    timings = shared[1]["timings"]
    assert timings["cache_n"] == cached[3]
    assert timings["prompt_n"] + timings["cache_n"] == shared[1]["usage"]["prompt_tokens"]
    assert timings["predicted_n"] == 2
    assert timings["prompt_ms"] > 0


def test_end_of_text_can_be_ignored(tiny_bundle) -> None:
    model = LanguageModel.load(tiny_bundle, precision="int8", threads=1)
    body = {"prompt": PROMPT, "max_tokens": 100, "logit_bias": {"2": 100}}
    with served(model) as api, api.client() as client:
        ended, ignored = (
            client.post("/v1/completions", json={**body, "ignore_eos": ignore}).json()["choices"][0]["finish_reason"]
            for ignore in (False, True)
        )
    assert (ended, ignored) == ("stop", "length")
