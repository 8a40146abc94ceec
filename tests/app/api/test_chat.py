"""/v1/chat/completions by OpenAI's own client."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Literal

import pydantic
import pytest

from runtime import SamplingOptions
from tests.app.api.serving import Served, endless, served
from tests.runtime.files import edit_json

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is the mouse?"}]
OPTIONS = SamplingOptions(max_new_tokens=20, seed=3)
TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"where": {"type": "string"}}}},
}


def expected(api: Served, **options) -> str:
    return "".join(delta.text for delta in api.model.chat(MESSAGES, replace(OPTIONS, **options)))


def test_an_answer_is_the_runtimes(api: Served, client) -> None:
    found = client.chat.completions.create(model="tiny", messages=MESSAGES, max_completion_tokens=20, seed=3)
    assert found.object == "chat.completion"
    assert found.choices[0].message.role == "assistant"
    assert found.choices[0].message.content == expected(api)
    assert found.choices[0].finish_reason == "length"
    assert found.usage.completion_tokens == 20


def test_a_stream_begins_with_the_role_and_joins_to_the_whole(api: Served, client) -> None:
    chunks = list(client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=20, seed=3, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected(api)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert all(chunk.usage is None for chunk in chunks)


def test_an_answer_may_go_on_to_the_context(api: Served, client) -> None:
    found = client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert found.usage.total_tokens == api.model.session.shape.max_position_embeddings


def test_stop_and_parts_and_developer(api: Served, client) -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "Where is the mouse?"}]},
    ]
    found = client.chat.completions.create(model="tiny", messages=messages, max_tokens=20, seed=3, stop="e")
    assert found.choices[0].message.content == expected(api, stop_strings=("e",))
    assert found.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_tokens_and_rivals(api: Served, client, stream) -> None:
    options = {"messages": MESSAGES, "max_tokens": 6, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    answer = client.chat.completions.create(model="tiny", stream=stream, **options)
    parts = [chunk.choices[0].logprobs for chunk in (answer if stream else [answer])]
    entries = [entry for part in parts if part for entry in part.content]
    assert len(entries) == 6
    for entry in entries:
        assert entry.logprob == entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob
        assert entry.token == entry.top_logprobs[0].token
        assert entry.bytes is None or bytes(entry.bytes).decode() == entry.token


class Mouse(pydantic.BaseModel):
    colour: Literal["grey", "brown"]
    is_small: bool


def test_an_answer_keeps_to_the_schema_of_a_pydantic_model(client) -> None:
    pytest.importorskip("llguidance")
    found = client.chat.completions.parse(model="tiny", messages=MESSAGES, response_format=Mouse, seed=1)
    assert isinstance(found.choices[0].message.parsed, Mouse)
    assert found.choices[0].finish_reason == "stop"


def test_json_object_begins_one(client) -> None:
    pytest.importorskip("llguidance")
    wanted = {"type": "json_object"}
    found = client.chat.completions.create(model="tiny", messages=MESSAGES, response_format=wanted, max_tokens=9)
    assert found.choices[0].message.content.startswith("{")


def test_tools_calls_and_switches_reach_the_template(tiny_bundle, tmp_path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    template = (
        "{{ tools | length if tools else 'none' }}{{ greeting }}{% for m in messages %}{{ m.content }}"
        "{% for call in m.tool_calls or [] %}{{ call.function.arguments.where }}{% endfor %}{% endfor %}"
    )
    edit_json(folder / "tokenizer_config.json", chat_template=template)
    edit_json(folder / "manifest.json", files={})
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"where": "stairs"}'}}
    messages = [
        {"role": "user", "content": "mouse"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "yes", "tool_call_id": "1"},
    ]
    body = {"messages": messages, "max_tokens": 1, "chat_template_kwargs": {"greeting": "hi"}}
    with served(endless(folder)) as api, api.client() as client:

        def prompt_tokens(**more) -> int:
            return client.post("/v1/chat/completions", json={**body, **more}).json()["usage"]["prompt_tokens"]

        def tokens(text: str) -> int:
            return len(client.post("/tokenize", json={"content": text}).json()["tokens"])

        assert prompt_tokens() == tokens("nonehimousestairsyes")
        assert prompt_tokens(tools=[TOOL, TOOL]) == tokens("2himousestairsyes")
        assert prompt_tokens(tools=[TOOL], tool_choice="none") == tokens("nonehimousestairsyes")
