"""Gradio's named endpoints, called by Gradio's own client: they are the page's work, with its limits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace

import httpx
import pytest

from app.gradio_gate import Listeners, is_open
from app.wishes import PageLimits
from runtime.engine.scheduler import Scheduler
from tests.app.sites import Served, endless, served

pytest.importorskip("gradio_client")

GREEDY = {"temperature": 0}
QUESTION = [{"role": "user", "content": "Who?"}]
SECRET = "the mouse's secret"
NAMES = {"/continue_text", "/chat", "/compare", "/tokenize", "/measure", "/models"}


@pytest.fixture(scope="module")
def site(tiny_bundle) -> Iterator[Served]:
    with served(endless(tiny_bundle), limits=PageLimits(texts=3)) as found:
        found.wait(lambda: found.site._gradio is not None, 60)
        yield found


def connect(site: Served):
    from gradio_client import Client

    return Client(site.url, verbose=False, analytics_enabled=False, download_files=False)


@pytest.fixture(scope="module")
def client(site):
    found = connect(site)
    yield found
    found.close()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Scheduler.step
    monkeypatch.setattr(Scheduler, "step", lambda scheduler: (time.sleep(0.02), step(scheduler))[1])


def fails(client, *arguments, **options) -> str:
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError) as caught:
        client.predict(*arguments, **options)
    return str(caught.value)


def test_the_endpoints_are_described(client) -> None:
    described = client.view_api(return_format="dict", print_info=False)
    assert set(described["named_endpoints"]) == NAMES
    assert not described["unnamed_endpoints"]
    names = [row["parameter_name"] for row in described["named_endpoints"]["/continue_text"]["parameters"]]
    assert names == ["text", "max_new_tokens", "temperature", "seed", "precision", "options"]
    for endpoint in described["named_endpoints"].values():
        assert endpoint["returns"]
        assert endpoint["description"]


def test_a_text_is_streamed_and_is_the_pages(site: Served, client, slow) -> None:
    job = client.submit("The mouse", max_new_tokens=30, temperature=0, api_name="/continue_text")
    pieces = list(job)
    assert len(pieces) > 2
    assert all(later.startswith(earlier) for earlier, later in pairwise(pieces))
    assert pieces[-1] == site.text("The mouse", max_new_tokens=30, **GREEDY)


def test_options_are_taken_by_name(site: Served, client) -> None:
    drawn = {"top_k": 5, "repetition_penalty": 1.2}
    wanted = site.text("The mouse", max_new_tokens=12, seed=3, temperature=1.1, **drawn)
    options = {"max_new_tokens": 12, "seed": 3, "temperature": 1.1, "options": drawn}
    assert client.predict("The mouse", api_name="/continue_text", **options) == wanted


def test_a_conversation_is_answered(client) -> None:
    first = client.predict(QUESTION, 12, 0, api_name="/chat")
    assert first
    assert client.predict(QUESTION, 12, 0, api_name="/chat") == first


def test_precisions_are_compared_in_turn(site: Served, client) -> None:
    rows = client.predict("The mouse", ["int8", "fp32"], 8, GREEDY, api_name="/compare")
    assert [row["precision"] for row in rows] == ["int8", "fp32"]
    assert rows[0]["text"] == site.text("The mouse", max_new_tokens=8, **GREEDY)
    assert all(row["new_tokens"] == 8 and row["tokens_per_second"] > 0 for row in rows)


def test_a_text_is_shown_in_tokens(client) -> None:
    found = client.predict("The mouse", api_name="/tokenize")
    assert "".join(text for text, _, is_special in found["pieces"] if not is_special) == "The mouse"
    assert sum(len(ids) for _, ids, _ in found["pieces"]) == found["tokens"]


def test_the_model_is_told(site: Served, client) -> None:
    found = client.predict(api_name="/models")
    assert (found["name"], found["precision"], found["context_tokens"]) == ("tiny", "int8", 192)


def test_a_measurement_is_streamed(client, monkeypatch) -> None:
    monkeypatch.setattr("app.tabs.model.MEASURE_SECONDS", 0.5)
    rows = client.predict(api_name="/measure")
    assert rows
    assert all(row["decode_tokens_per_second"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": -1}, "temperature must be 0"),
        ({"temperature": "hot"}, "temperature: input should be a valid number"),
        ({"options": {"temprature": 1}}, "unknown field temprature"),
        ({"options": 5}, "options"),
        ({"precision": "q2"}, "there is no precision 'q2'"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_wrong_call_is_a_line_for_its_client_and_none_for_the_log(client, options, said, caplog, capfd) -> None:
    error = fails(client, SECRET, api_name="/continue_text", **options)
    assert said in error
    assert SECRET not in error
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("queue/join", {}),
        ("queue/join", {"data": [], "fn_index": 0}),
        ("queue/join", {"data": ["x"], "fn_index": 99, "session_hash": "a"}),
        ("queue/join", {"data": [], "fn_index": 0, "session_hash": "a"}),
        ("call/continue_text", {"data": []}),
        ("call/continue_text", {"data": 5}),
        ("call/nothing", {"data": []}),
        ("call/chat", {"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]}),
        ("cancel", {}),
    ],
)
def test_a_malformed_call_logs_nothing(site: Served, path, body, caplog, capfd) -> None:
    with site.client() as client:
        answer = client.post(f"/gradio_api/{path}", json=body)
        if answer.status_code == 200 and path.startswith("call/"):
            told = client.get(f"/gradio_api/{path}/{answer.json()['event_id']}").text
            assert "error" in told
            assert "root:" not in told
    time.sleep(0.3)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_a_prompt_that_cannot_fit_is_refused_and_not_echoed(client) -> None:
    error = fails(client, f"{SECRET} " * 30_000, api_name="/continue_text")
    assert "cannot fit" in error
    assert SECRET not in error


def test_a_call_that_nobody_listens_to_is_given_up(site: Served, slow, monkeypatch) -> None:
    monkeypatch.setattr("app.gradio_gate.COMING_SECONDS", 0.5)
    with site.client() as client:
        answer = client.post("/gradio_api/call/continue_text", json={"data": ["x", 180, 0.0, 1, None, None]})
        assert answer.status_code == 200
        site.wait(lambda: site.is_busy)
        started = time.monotonic()
        site.wait_until_free()
        assert time.monotonic() - started < 3, "it ran to its end"
    assert not site.site._service.visitors.texts


def test_a_call_whose_client_leaves_is_given_up(site: Served, slow) -> None:
    with site.client() as client:
        event = client.post("/gradio_api/call/continue_text", json={"data": ["x", 180, 0.0, 1, None, None]}).json()
        with client.stream("GET", f"/gradio_api/call/continue_text/{event['event_id']}") as answer:
            lines = answer.iter_lines()
            while "generating" not in next(lines):
                pass
        started = time.monotonic()
        site.wait_until_free()
        assert time.monotonic() - started < 2.5, "it ran to its end"


def test_a_job_is_cancelled(site: Served, client, slow) -> None:
    job = client.submit("x", max_new_tokens=180, api_name="/continue_text")
    next(iter(job))
    job.cancel()
    started = time.monotonic()
    site.wait_until_free()
    assert time.monotonic() - started < 2.5, "it ran to its end"


def test_an_address_may_have_so_many_texts(site: Served, client, slow) -> None:
    jobs = [client.submit("x", max_new_tokens=100, api_name="/continue_text") for _ in range(3)]
    site.wait(lambda: sum(site.site._service.visitors.texts.values()) == 3)
    assert "3 texts are under way" in fails(client, "x", api_name="/continue_text")
    for job in jobs:
        job.cancel()
    site.wait_until_free()


def test_a_flood_of_calls_that_nobody_listens_to_passes(site: Served, monkeypatch) -> None:
    monkeypatch.setattr("app.gradio_gate.COMING_SECONDS", 0.2)
    with site.client() as client:
        answers = [
            client.post("/gradio_api/call/continue_text", json={"data": ["x" * 100, 180, 0.0, 1, None, None]})
            for _ in range(150)
        ]
        assert {answer.status_code for answer in answers} <= {200, 503}
        site.wait_until_free()
        site.wait(lambda: not site.site._service.visitors.texts)
        assert client.get("/page/state").json() == {"state": "ready", "error": None, "texts": 0}


def test_a_client_that_comes_before_gradio_is_there_waits_for_it(tiny_bundle) -> None:
    with served(endless(tiny_bundle)) as site:
        found = connect(site)
        assert found.predict("The mouse", 3, api_name="/continue_text") is not None
        found.close()


def test_behind_a_proxy_the_client_is_sent_to_the_proxy(site: Served) -> None:
    """As on a Space: the address that the client uses is not the one that the server listens at."""
    headers = {"x-forwarded-host": "user-model.hf.example", "x-forwarded-proto": "https"}
    config = httpx.get(f"{site.url}/config", headers=headers).json()
    assert config["root"] == "https://user-model.hf.example"


def test_who_listens_is_heard_and_who_left_is_not(monkeypatch) -> None:
    now = [100.0]
    # The module's own clock: event loops read time.monotonic, and would sleep by the difference.
    monkeypatch.setattr("app.gradio_gate.time", SimpleNamespace(monotonic=lambda: now[0]))
    listeners = Listeners()
    assert listeners.is_heard("a", 100)  # it may still come
    now[0] = 106
    assert not listeners.is_heard("a", 100)
    listeners.enter("a")
    listeners.enter("a")
    listeners.leave("a")
    assert listeners.is_heard("a", 100)
    listeners.leave("a")
    assert not listeners.is_heard("a", 105)
    assert listeners.is_heard("a", 106)  # of a call that was posted since
    assert not listeners._listening


def test_of_gradios_paths_few_are_open() -> None:
    for path in ("/config", "/gradio_api/info", "/gradio_api/queue/data", "/gradio_api/call/chat/1"):
        assert is_open("GET", path)
        assert not is_open("POST", path)
    for path in ("/gradio_api/queue/join", "/gradio_api/call/chat", "/gradio_api/cancel"):
        assert is_open("POST", path)
        assert not is_open("PUT", path)
    for path in ("/gradio_api/upload", "/gradio_api/call/a/b/c", "/gradio_api/run/chat", "/gradio_api/api/chat"):
        assert not is_open("POST", path)
