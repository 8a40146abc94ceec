"""The document, its facts and its state: nothing that a name or a prompt holds is ever interpreted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace

import pytest

from app.page import page_facts
from app.wishes import CONTROLS, PageLimits, controls
from runtime.sampling.options import DefaultLength, SamplingOptions
from tests.app.sites import CHAT, CONTINUE, Served, endless, served

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)> & \"quoted\" 'single' {{facts}} ${1+1}"


@pytest.fixture(scope="module")
def site(tiny_bundle) -> Iterator[Served]:
    with served(endless(tiny_bundle), name=HOSTILE) as found:
        found.wait(found.site.models.ready)
        yield found


def facts(document: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="facts">(.*?)</script>', document, re.DOTALL)
    return json.loads(found)


def test_a_hostile_name_is_text_in_the_document(site: Served) -> None:
    with site.client() as client:
        document = client.get("/").text
    assert "<script>alert" not in document
    assert "<img" not in document
    assert facts(document)["name"] == HOSTILE
    assert "<h1>&lt;/script&gt;&lt;script&gt;alert(1)" in document


def test_hostile_prompts_and_texts_are_json_that_no_browser_takes_for_html(site: Served) -> None:
    for path, wish in (
        (CONTINUE, {"text": HOSTILE}),
        (CHAT, {"messages": [{"role": "user", "content": HOSTILE}]}),
        (CONTINUE, {"text": "x", HOSTILE: 1}),
        (CONTINUE, {"text": "x", "precision": HOSTILE}),
    ):
        answer = site.post(path, wish)
        assert answer.headers["content-type"].partition(";")[0] in ("text/event-stream", "application/json")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_every_answer_has_the_headers_that_keep_other_pages_out(site: Served) -> None:
    with site.client() as client:
        for path in ("/", "/page/state", "/static/main.js", "/static/nothing", "/page/nothing", "/config"):
            headers = client.get(path).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'self';" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"


def test_the_document_fetches_from_here_alone(site: Served) -> None:
    with site.client() as client:
        document = client.get("/").text
        addresses = re.findall(r'(?:src|href)="([^"]*)"', document)
        assert addresses
        for address in addresses:
            assert address.startswith("/static/")
            assert client.get(address).status_code == 200


def test_no_file_beside_the_static_ones_is_served(site: Served) -> None:
    with site.client() as client:
        for path in ("/static/../page.py", "/static/%2e%2e/page.py", "/static//etc/passwd", "/static/", "/page.py"):
            assert client.get(path).status_code in (404, 405)


def test_the_facts_name_the_precisions_and_the_controls_of_the_runtime(site: Served) -> None:
    with site.client() as client:
        found = facts(client.get("/").text)
    assert [row["name"] for row in found["precisions"]] == list(site.site.models.bundle.precisions)
    assert all(row["bytes"] > 10_000 for row in found["precisions"])
    assert found["context_tokens"] == 192
    assert found["no_chat"] is None
    numbers = {option.name for option in fields(SamplingOptions) if option.metadata["kind"] is not None}
    assert {row["name"] for row in found["controls"]} == numbers - {"seed", "min_new_tokens", "top_logprobs"}


def test_a_model_without_a_template_says_why_there_is_no_chat(stories260k_bundle) -> None:
    with served(endless(stories260k_bundle)) as site:
        why = page_facts(site.site._service)["no_chat"]
        assert why.startswith("This model ")
        assert str(stories260k_bundle) not in why
        error = site.events(CHAT, {"messages": [{"role": "user", "content": "Hi"}]})[-1]["error"]
        assert "chat template" in error


def test_the_state_tells_whether_the_model_is_there_and_how_many_texts_run(site: Served) -> None:
    with site.client() as client:
        assert client.get("/page/state").json() == {"state": "ready", "error": None, "texts": 0}


def test_controls_begin_with_the_models_own_defaults_within_range() -> None:
    defaults = SamplingOptions(temperature=3.5, top_k=20, repetition_penalty=0.5, max_new_tokens=DefaultLength(5))
    found = {row["name"]: row["value"] for row in controls(defaults, 192, PageLimits())}
    assert (found["temperature"], found["top_k"], found["repetition_penalty"]) == (2, 20, 1)
    assert found["top_p"] == SamplingOptions().top_p
    assert found["max_new_tokens"] == 5


def test_every_value_that_a_control_offers_is_one_that_the_runtime_takes() -> None:
    for row in controls(SamplingOptions(), 192, PageLimits(new_tokens=50)):
        for end in ("least", "most"):
            kind = int if isinstance(CONTROLS[row["name"]][3], int) else float
            replace(SamplingOptions(), **{row["name"]: kind(row[end])})
    assert row["meaning"]


@pytest.mark.parametrize(
    ("path", "wish", "param", "said"),
    [
        (CONTINUE, {"sampling": {"temprature": 1}}, "temprature", "unknown field temprature"),
        (CONTINUE, {"txt": "x"}, "txt", "did you mean text?"),
        (CONTINUE, {"text": 5}, "text", "string"),
        (CONTINUE, {"sampling": {"temperature": "1"}}, "sampling", "temperature: input should be a valid number"),
        (CONTINUE, {"sampling": {"seed": -1}}, "sampling", "seed: input should be greater"),
        (CONTINUE, {"sampling": {"stop_strings": [""]}}, "sampling", "stop_strings"),
        (CONTINUE, {"sampling": {"regex": "a" * 3000}}, "sampling", "at most 2000 characters"),
        (CONTINUE, {"certainty": 1}, "certainty", "boolean"),
        (CHAT, {"messages": []}, "messages", "at least 1 item"),
        (CHAT, {}, "messages", "required"),
        (CHAT, {"messages": [{"role": "king", "content": "x"}]}, "messages", "role"),
        ("/page/tokenize", {"text": "x" * 20_001}, "text", "at most 20000 characters"),
        ("/page/measure", {"precision": 8}, "precision", "string"),
    ],
)
def test_a_field_that_is_wrong_is_named(site: Served, path, wish, param, said, caplog) -> None:
    answer = site.post(path, wish)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert param in error["param"], error
    assert said in error["message"], error
    assert not caplog.records


@pytest.mark.parametrize("body", ['{"text": "x"', "", "[]", "null", "[" * 100_000, b"\xff", '{"sampling": NaN}'])
def test_what_is_no_json_object_is_400_and_logs_nothing(site: Served, body, caplog, capfd) -> None:
    with site.client() as client:
        answer = client.post(CONTINUE, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_a_question_is_needed_to_be_answered(site: Served) -> None:
    for messages in ([{"role": "system", "content": "x"}], [{"role": "assistant", "content": "x"}]):
        assert site.events(CHAT, {"messages": messages})[-1]["error"] == "a conversation needs a question to answer"


def test_an_answer_is_continued_where_it_was_cut(site: Served) -> None:
    question = {"role": "user", "content": "Who?"}

    def prompt_tokens(*messages: dict) -> int:
        found = site.events(CHAT, {"messages": messages, "sampling": {"max_new_tokens": 1}})
        return next(event["start"]["prompt_tokens"] for event in found if "start" in event)

    half = "The mouse"
    more = site.site.models.tokenizer.encode(half, add_special_tokens=False)
    assert prompt_tokens(question, {"role": "assistant", "content": half}) == prompt_tokens(question) + len(more)
