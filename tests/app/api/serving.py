"""An API of a model, served from a thread of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from app.api.application import Settings, build_api
from app.api.routes import Service
from app.api.server import DrainingServer
from runtime import Bundle, LanguageModel


@dataclass(frozen=True)
class Served:
    """Where it is, and what is behind it."""

    url: str
    model: LanguageModel
    service: Service
    server: DrainingServer

    def client(self, **options) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)

    def figure(self, name: str) -> float:
        """A number of /metrics, by its name and labels."""
        found = [line for line in httpx.get(f"{self.url}/metrics").text.splitlines() if line.startswith(f"{name} ")]
        return float(found[0].split()[-1])

    def is_free(self) -> bool:
        """Whether nothing waits or runs, and no cache is held for it."""
        names = ("smoltext_requests_running", "smoltext_requests_waiting", 'smoltext_cache_bytes{of="running"}')
        return not any(self.figure(name) for name in names)

    def wait_until_free(self, seconds: float = 10) -> None:
        ends = time.monotonic() + seconds
        while not self.is_free():
            assert time.monotonic() < ends, "a slot or a cache is not freed"
            time.sleep(0.01)


def endless(folder: Path, *, precision: str = "int8", slots: int = 4) -> LanguageModel:
    """A model without end-of-text ids: random weights would end a text anywhere."""
    bundle = replace(Bundle.open(folder), eos_token_ids=frozenset())
    return LanguageModel.load(bundle, precision=precision, threads=1, cached_prompts=2, max_running=slots)


@contextmanager
def served(model: LanguageModel, **settings) -> Iterator[Served]:
    api = build_api(model, Settings(**{"name": "tiny", "slots": 4, "queue": 32} | settings))
    listens = threading.Event()
    server = DrainingServer(api, host="127.0.0.1", port=0, drain_seconds=10, announce=listens.set)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert listens.wait(20)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Served(f"http://127.0.0.1:{port}", model, api.app.state.service, server)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
