"""The site of `app run`, served from a thread of this process, and what a visitor's browser does there."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from app.api.application import Settings
from app.api.guard import Limits
from app.api.server import DrainingServer
from app.site import Site
from app.wishes import PageLimits
from runtime import Bundle

CONTINUE, CHAT = "/page/continue", "/page/chat"


@dataclass(frozen=True)
class Served:
    """Where it is, and what is behind it."""

    url: str
    site: Site
    server: DrainingServer

    def client(self, **options) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)

    def post(self, path: str, wish: dict, **options) -> httpx.Response:
        with self.client() as client:
            return client.post(path, json=wish, **options)

    def events(self, path: str, wish: dict) -> list[dict]:
        return events(self.post(path, wish).text)

    def text(self, prompt: str = "The mouse", **sampling) -> str:
        return text(self.events(CONTINUE, {"text": prompt, "sampling": sampling}))

    @property
    def is_busy(self) -> bool:
        return any(found.engine.accepted for found in self.site.models.ready().values())

    def wait(self, holds, seconds: float = 20) -> None:
        ends = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < ends, "it does not come to that"
            time.sleep(0.01)

    def wait_until_free(self) -> None:
        self.wait(lambda: not self.is_busy)


def events(body: str) -> list[dict]:
    """The events of a whole stream."""
    lines = [line.removeprefix("data: ") for line in body.splitlines() if line]
    assert lines[-1] == "[DONE]", lines[-1:]
    return [json.loads(line) for line in lines[:-1]]


def text(of: list[dict]) -> str:
    assert "end" in of[-1], of[-1]
    return "".join(event.get("t", "") for event in of)


def lines_of(answer: httpx.Response) -> Iterator[dict]:
    """The events of a stream as they come."""
    for line in answer.iter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def endless(folder: Path) -> Bundle:
    """A bundle without end-of-text ids: random weights would end a text anywhere."""
    return replace(Bundle.open(folder), eos_token_ids=frozenset())


@contextmanager
def served(bundle: Bundle, *, limits: PageLimits | None = None, guard: Limits | None = None, share=None, **settings):
    site = Site(
        bundle,
        precision=bundle.default_precision,
        settings=Settings(
            **{"name": "tiny", "slots": 4, "queue": 32, "limits": guard or Limits(hosts=("127.0.0.1",))} | settings
        ),
        page_limits=limits or PageLimits(texts=100),
        threads=1,
        source="bundles/tiny",
        share=share,
    )
    listens = threading.Event()
    server = DrainingServer(site, host="127.0.0.1", port=0, drain_seconds=10, announce=listens.set)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert listens.wait(20)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Served(f"http://127.0.0.1:{port}", site, server)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
