"""The site as a whole: what is there before the model is, what fails, what is refused, and how it ends."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from app.api.guard import Limits
from app.models import Models
from runtime.errors import BundleError
from runtime.language_model import LanguageModel
from tests.app.sites import CONTINUE, Served, endless, lines_of, served

GUARD = Limits(hosts=("127.0.0.1", "localhost"), origins=("https://chat.example",), body_bytes=10_000, body_seconds=0.3)


@pytest.fixture(scope="module")
def site(tiny_bundle) -> Iterator[Served]:
    with served(endless(tiny_bundle), guard=GUARD) as found:
        found.wait(lambda: found.site._gradio is not None, 60)
        yield found


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Models open once it is set."""
    event, load = threading.Event(), Models._load

    def wait_and_load(models: Models, name: str) -> LanguageModel:
        event.wait(20)
        return load(models, name)

    monkeypatch.setattr(Models, "_load", wait_and_load)
    yield event
    event.set()


def test_the_page_is_there_before_the_model_is(tiny_bundle, gate) -> None:
    with served(endless(tiny_bundle)) as site, site.client() as client:
        assert "<h1>tiny</h1>" in client.get("/").text
        assert client.get("/page/state").json()["state"] == "loading"
        waiting = client.get("/v1/models")
        assert (waiting.status_code, waiting.headers["retry-after"]) == (503, "1")
        assert "being loaded" in waiting.json()["error"]["message"]
        assert client.get("/health").status_code == 503
        wish = {"text": "The", "sampling": {"max_new_tokens": 2}}
        with client.stream("POST", CONTINUE, json=wish) as answer:
            coming = lines_of(answer)
            assert next(coming) == {"loading": "int8"}
            gate.set()
            assert "start" in next(coming)
            assert "end" in list(coming)[-1]
        assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
        assert client.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize("is_there", [False, True])
def test_hosts_and_origins_are_checked_before_the_model_is_there_and_after(tiny_bundle, gate, is_there) -> None:
    if is_there:
        gate.set()
    with served(endless(tiny_bundle), guard=GUARD) as site, site.client() as client:
        if is_there:
            site.wait(site.site.models.ready)
        for path in ("/", "/page/state", "/static/main.js", "/v1/models", "/health", "/nothing", "/config"):
            assert client.get(path, headers={"host": "evil.example"}).status_code == 421, path
        for path in (CONTINUE, "/v1/completions", "/gradio_api/queue/join"):
            evil = client.post(path, json={"text": "x"}, headers={"origin": "https://evil.example"})
            assert evil.status_code == 403, path
            assert (
                client.post(path, content=b"x" * 20_000, headers={"content-type": "application/json"}).status_code
                == 413
            )
            assert client.post(path, content=b"x", headers={"content-type": "text/plain"}).status_code == 415
        assert client.get("/page/state", headers={"origin": "https://chat.example"}).status_code == 200
        gate.set()


def test_a_body_that_does_not_come_is_let_go(site: Served) -> None:
    def drops() -> Iterator[bytes]:
        yield b"{"
        time.sleep(2)

    with site.client() as client:
        answer = client.post(CONTINUE, content=drops(), headers={"content-type": "application/json"})
    assert answer.status_code == 408


def test_a_model_that_cannot_be_opened_is_told_in_words_and_the_process_lives(tiny_bundle, monkeypatch, caplog) -> None:
    def fail(*_) -> None:
        raise BundleError("model_int8.onnx is broken: export it again")

    monkeypatch.setattr(Models, "_load", fail)
    with served(endless(tiny_bundle)) as site, site.client() as client:
        site.wait(lambda: client.get("/page/state").json()["state"] == "failed")
        assert client.get("/page/state").json()["error"] == "model_int8.onnx is broken: export it again"
        health = client.get("/health")
        assert health.status_code == 503
        assert "model_int8.onnx is broken" in health.json()["error"]["message"]
        assert client.get("/v1/models").json()["error"]["code"] == "no_model"
        assert "<h1>tiny</h1>" in client.get("/").text
        monkeypatch.undo()
        # The next visitor has it tried again.
        assert "end" in site.events(CONTINUE, {"text": "x", "sampling": {"max_new_tokens": 1}})[-1]
        assert client.get("/health").status_code == 200
    (record,) = caplog.records
    assert record.getMessage() == "int8 cannot be opened: model_int8.onnx is broken: export it again"
    assert record.exc_info is None


def test_a_broken_file_is_a_failure_in_words(tiny_bundle, tmp_path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "broken")
    for path in (tmp_path / "broken/onnx").iterdir():
        path.write_bytes(b"\xff" * path.stat().st_size)
    with served(endless(tmp_path / "broken")) as site, site.client() as client:
        site.wait(lambda: client.get("/page/state").json()["state"] == "failed")
        error = client.get("/page/state").json()["error"]
        assert "\n" not in error
        assert "Traceback" not in error
        assert client.get("/").status_code == 200


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/upload", "/gradio_api/upload_progress", "/gradio_api/file=x"])
def test_nothing_can_be_uploaded(site: Served, path) -> None:
    with site.client() as client:
        files = {"files": ("x.txt", b"x" * 5000)}
        assert client.post(path, files=files).status_code in (404, 415)
        assert client.post(path, json={}).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=http://localhost:1/",
        "/gradio_api/stream/a/b",
        "/gradio_api/vibe-code",
        "/gradio_api/runs",
        "/gradio_api/component_server",
        "/gradio_api/deep_link",
        "/gradio_api/call/",
        "/gradio_api/queue/join",
        "/monitoring",
        "/login",
        "/theme.css",
        "/docs",
        "/config/../gradio_api/upload",
    ],
)
def test_of_gradio_only_what_clients_need_is_there(site: Served, path) -> None:
    with site.client() as client:
        assert client.get(path).status_code == 404


def test_a_stream_of_the_page_does_not_hold_up_the_end(tiny_bundle, monkeypatch) -> None:
    from runtime.engine.scheduler import Scheduler

    step = Scheduler.step
    monkeypatch.setattr(Scheduler, "step", lambda scheduler: (time.sleep(0.2), step(scheduler))[1])
    with served(endless(tiny_bundle)) as site, site.client() as client:
        site.wait(site.site.models.ready)
        with client.stream("POST", CONTINUE, json={"text": "x", "sampling": {"max_new_tokens": 180}}) as answer:
            coming = lines_of(answer)
            while "t" not in next(coming):
                pass
            started = time.monotonic()
            site.server.handle_exit(2, None)
            with pytest.raises(httpx.RemoteProtocolError):
                list(coming)
        site.wait(lambda: not site.server.started or site.server.should_exit)
    assert time.monotonic() - started < 9, "it drained the page's streams, as it does the API's"


def test_a_fault_of_ours_is_said_and_nothing_of_a_prompt_is_logged(site: Served, monkeypatch, caplog, capfd) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "the mouse's secret"

    def fail(*_, **__) -> None:
        raise RuntimeError(secret)

    with monkeypatch.context() as patch:
        patch.setattr(site.site.models.ready()["int8"].model.session, "forward", fail)
        found = site.events(CONTINUE, {"text": secret})
    assert found[-1]["error"] == "the server failed on this request; its log has the place"
    assert "end" in site.events(CONTINUE, {"text": "x", "sampling": {"max_new_tokens": 1}})[-1]
    told = caplog.text + "".join(capfd.readouterr())
    assert "RuntimeError in a request" in told
    assert secret not in told


def test_the_api_and_the_page_share_an_engine(site: Served) -> None:
    wish = {"text": "The mouse", "sampling": {"max_new_tokens": 12, "temperature": 0}}
    page = "".join(event.get("t", "") for event in site.events(CONTINUE, wish))
    with site.client() as client:
        body = {"prompt": "The mouse", "max_tokens": 12, "temperature": 0}
        assert client.post("/v1/completions", json=body).json()["choices"][0]["text"] == page
        assert "smoltext_generated_tokens_total" in client.get("/metrics").text


def test_other_paths_are_404_in_openais_form(site: Served) -> None:
    with site.client() as client:
        for path in ("/nothing", "/page/nothing", "/static/nothing"):
            answer = client.get(path)
            assert answer.status_code == 404
            assert answer.json()["error"]["type"] == "invalid_request_error"


def test_the_site_is_an_asgi_application_without_a_server(tiny_bundle) -> None:
    """As httpx calls it in one process: without the lifespan, the model is not opened, and the page is there."""
    from app.api.application import Settings
    from app.site import Site
    from app.wishes import PageLimits

    async def main() -> None:
        site = Site(
            endless(tiny_bundle), precision="int8", settings=Settings(name="tiny"), page_limits=PageLimits(), threads=1
        )
        transport = httpx.ASGITransport(site)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            assert (await client.get("/page/state")).json()["state"] == "closed"
            assert json.loads((await client.get("/health")).text)["error"]["code"] == "loading"

    asyncio.run(main())
