"""What is wrong is said in OpenAI's form, at once, and disturbs nobody."""

from __future__ import annotations

import json
import logging
import socket
import time

import pytest

from app.api.guard import Limits
from tests.app.api.serving import Served, endless, served

COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"
USER = [{"role": "user", "content": "Hi"}]
SECRET = "the mouse's secret"
KEY = "k" * 40


@pytest.mark.parametrize(
    ("path", "body", "param", "said"),
    [
        (COMPLETION, {"temprature": 1}, "temprature", "did you mean temperature?"),
        (COMPLETION, {"nonsense": 1}, "nonsense", "unknown field"),
        (COMPLETION, {"\ud800": 1}, None, "the body must be a JSON object: "),
        (COMPLETION, {"temperature": "1"}, "temperature", "number"),
        (COMPLETION, {"temperature": -1}, "temperature", "greater than or equal to 0"),
        (COMPLETION, {"temperature": 1e308}, "temperature", "less than or equal to 100"),
        (COMPLETION, {"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        (COMPLETION, {"max_tokens": 1.5}, "max_tokens", "integer"),
        (COMPLETION, {"max_tokens": True}, "max_tokens", "integer"),
        (COMPLETION, {"max_tokens": 10**30}, "max_tokens", "less than or equal to"),
        (COMPLETION, {"seed": 2**70}, "seed", "less than or equal to"),
        (COMPLETION, {"top_p": 0}, "top_p", "greater than 0"),
        (COMPLETION, {"logit_bias": {"x": 1}}, "logit_bias", "pattern"),
        (COMPLETION, {"logit_bias": {"999": 1}}, None, "logit_bias"),
        (COMPLETION, {"stop": [""]}, "stop", "at least 1 character"),
        (COMPLETION, {"prompt": 5}, "prompt", "string"),
        (COMPLETION, {"prompt": []}, "prompt", "at least 1 item"),
        (COMPLETION, {"prompt": [-1]}, "prompt", "greater than or equal to 0"),
        (COMPLETION, {"prompt": [320]}, None, "token ids must be integers in 0..319"),
        (COMPLETION, {"prompt": "\ud800"}, None, "not valid Unicode"),
        (COMPLETION, {"suffix": "x"}, "suffix", "None"),
        (COMPLETION, {"best_of": 2}, "best_of", "n"),
        (COMPLETION, {"echo": True, "logprobs": 1}, "echo", "leave out"),
        (COMPLETION, {"n": 100}, "n", "36 at most"),
        (COMPLETION, {"stream_options": {}}, "stream_options", "needs stream"),
        (COMPLETION, {"min_p": 1}, "min_p", "less than 1"),
        (CHAT, {}, "messages", "required"),
        (CHAT, {"messages": []}, "messages", "at least 1 item"),
        (CHAT, {"messages": [{"role": "king", "content": "x"}]}, "messages", "0.role: input should be 'system'"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "text"),
        (CHAT, {"messages": USER, "top_logprobs": 1}, "top_logprobs", "logprobs: true"),
        (CHAT, {"messages": USER, "max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "give one"),
        (CHAT, {"messages": USER, "tool_choice": "required"}, "tool_choice", "'auto' or 'none'"),
        (CHAT, {"messages": USER, "response_format": {"type": "xml"}}, "response_format", "expected tags"),
        (CHAT, {"messages": USER, "chat_template_kwargs": {"messages": 1}}, "chat_template_kwargs", "other fields"),
        ("/tokenize", {}, "content", "required"),
        ("/detokenize", {"tokens": [10**12]}, "tokens", "less than or equal to"),
        ("/detokenize", {"tokens": [5000]}, None, "0..319"),
    ],
)
def test_a_field_that_is_wrong_is_named(api: Served, path, body, param, said) -> None:
    with api.client() as client:
        answer = client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param), error
    assert said in error["message"], error


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt": "x"',
        "",
        "[]",
        "3",
        "null",
        '{"temperature": NaN}',
        '{"temperature": Infinity}',
        '{"temperature": 1e999}',
        '{"seed": 1' + "0" * 5000 + "}",
        "[" * 100_000,
        '{"a":' * 100_000,
        b"\xff\xfe{}",
        b"\x00",
    ],
)
def test_what_is_no_json_object_is_400(api: Served, text) -> None:
    with api.client() as client:
        answer = client.post(COMPLETION, content=text, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_another_model_is_404(api: Served) -> None:
    with api.client() as client:
        for answer in (client.post(COMPLETION, json={"model": "gpt-4"}), client.get("/v1/models/gpt-4")):
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "model_not_found"
            assert "tiny" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETION, {"prompt": "mouse " * 300}),
        (COMPLETION, {"prompt": "mouse " * 30_000}),
        (COMPLETION, {"prompt": "mouse", "max_tokens": 192}),
        (CHAT, {"messages": [{"role": "user", "content": "mouse " * 300}]}),
        (CHAT, {"messages": USER, "max_tokens": 5000}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_context_cannot_hold_is_400_before_anything_runs(api: Served, path, body, stream) -> None:
    with api.client() as client:
        answer = client.post(path, json={**body, "stream": stream})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert "mouse mouse" not in answer.text


def test_a_grammar_that_cannot_be_met_is_400(api: Served) -> None:
    pytest.importorskip("llguidance")
    for schema in ({"type": "nonsense"}, {"enum": []}):
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        with api.client() as client:
            answer = client.post(CHAT, json={"messages": USER, "response_format": wanted, "stream": True})
        assert answer.status_code == 400, answer.text
        assert "json_schema" in answer.json()["error"]["message"]


def test_other_paths_methods_and_kinds(api: Served) -> None:
    with api.client() as client:
        assert client.get("/v1/nothing").status_code == 404
        assert client.get("/v1/nothing").json()["error"]["type"] == "invalid_request_error"
        wrong = client.get(COMPLETION)
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
        assert client.post(COMPLETION, data={"prompt": "x"}).status_code == 415
        assert client.post(COMPLETION, content=b"{}").status_code == 415


def raw(api: Served, head: str, *, body: bytes = b"", timeout: float = 10) -> tuple[bytes, float]:
    """What is answered to bytes on a connection that stays open, and after how many seconds."""
    port = int(api.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        started = time.monotonic()
        answer = b""
        while b"}}" not in answer:
            piece = connection.recv(65536)
            assert piece, "the connection ended before the answer"
            answer += piece
        return answer, time.monotonic() - started


HEAD = f"POST {COMPLETION} HTTP/1.1\nhost: localhost\ncontent-type: application/json"


def test_a_body_of_100_mb_is_refused_unread(api: Served) -> None:
    answer, seconds = raw(api, f"{HEAD}\ncontent-length: 100000000")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"request_too_large"' in answer
    assert b"connection: close" in answer
    assert seconds < 1


def test_a_client_that_sends_100_mb_all_the_same_reads_the_answer(api: Served) -> None:
    def piecemeal():
        for _ in range(1600):
            yield b" " * 2**16

    with api.client() as client:
        for content in (piecemeal(), b" " * 100_000_000):
            answer = client.post(COMPLETION, content=content, headers={"content-type": "application/json"})
            assert answer.status_code == 413


def test_a_slow_body_is_408_and_a_key_is_asked_for_before(tiny_bundle) -> None:
    limits = Limits(api_key=KEY, body_seconds=0.3)
    with served(endless(tiny_bundle), limits=limits) as api, api.client() as client:
        answer, seconds = raw(api, f"{HEAD}\nauthorization: Bearer {KEY}\ncontent-length: 10", body=b"{")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert 0.2 < seconds < 3
        assert raw(api, f"{HEAD}\ncontent-length: 10", body=b"{")[0].startswith(b"HTTP/1.1 401 ")
        assert client.get("/health").status_code == 200
        for given in ({}, {"authorization": KEY}, {"authorization": f"Bearer {KEY}x"}, {"authorization": "Bearer é"}):
            encoded = {name: value.encode("latin-1") for name, value in given.items()}
            answer = client.get("/v1/models", headers=encoded)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/v1/models", headers={"authorization": f"Bearer {KEY}"}).status_code == 200


def test_a_page_of_another_site_cannot_call(tiny_bundle) -> None:
    limits = Limits(hosts=("localhost", "127.0.0.1"), origins=("https://chat.example",))
    with served(endless(tiny_bundle), limits=limits) as api, api.client() as client:

        def status(**headers: str) -> int:
            return client.get("/v1/models", headers=headers).status_code

        assert status() == 200
        assert status(host="localhost:1") == 200
        assert status(host="evil.example") == 421
        assert status(origin="https://evil.example") == 403
        assert status(origin="null") == 403
        assert status(origin="https://chat.example") == 200
        assert status(origin=api.url) == 200


def test_a_fault_of_ours_is_500_in_openais_form_and_nothing_of_a_prompt_is_logged(
    tiny_bundle, monkeypatch, caplog, capfd
) -> None:
    caplog.set_level(logging.DEBUG)
    model = endless(tiny_bundle)
    with served(model) as api, api.client() as client:
        body = {"prompt": SECRET, "max_tokens": 4}
        assert client.post(COMPLETION, json=body).status_code == 200
        assert client.post(COMPLETION, json={**body, "n": -1}).status_code == 400

        def fail(*_, **__):
            raise RuntimeError(SECRET)

        with monkeypatch.context() as patch:
            patch.setattr(model.session, "forward", fail)
            for stream in (False, True):
                answer = client.post(COMPLETION, json={**body, "stream": stream})
                assert answer.status_code == 500
                assert answer.json()["error"]["type"] == "server_error"
            patch.setattr(model.tokenizer, "encode_prompt", fail)
            assert client.post(COMPLETION, json=body).status_code == 500
        assert client.post(COMPLETION, json=body).status_code == 200
        api.wait_until_free()
    told = caplog.text + "".join(capfd.readouterr())
    assert "RuntimeError in a request" in told
    assert SECRET not in told
