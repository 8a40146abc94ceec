"""The page's application over a bundle, called without a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.api.application import Settings
from app.site import Site
from app.wishes import PageLimits
from runtime.bundle import Bundle


class Page:
    """What a browser would ask of it."""

    def __init__(self, client: TestClient) -> None:
        self._client = client

    def get(self, path: str) -> dict[str, Any]:
        answer = self._client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, **wish: Any) -> dict[str, Any]:
        answer = self._client.post(path, json=wish)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, path: str, **wish: Any) -> tuple[int, str]:
        answer = self._client.post(path, json=wish)
        return answer.status_code, answer.json()["error"]["message"]

    def events(self, path: str, **wish: Any) -> list[dict[str, Any]]:
        answer = self._client.post(path, json=wish)
        assert answer.status_code == 200, answer.text
        *events, done, rest = answer.text.split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        return [json.loads(event.removeprefix("data: ")) for event in events]


OpenPage = Callable[[Bundle], Page]


@pytest.fixture(scope="module")
def open_page() -> Iterator[OpenPage]:
    with ExitStack() as open_sites:

        def open_page(bundle: Bundle) -> Page:
            settings = Settings(name="tiny", slots=2, queue=4)
            site = Site(
                bundle,
                precision=bundle.default_precision,
                settings=settings,
                page_limits=PageLimits(),
                threads=1,
                source=str(bundle.folder),
            )
            return Page(open_sites.enter_context(TestClient(site)))

        yield open_page


@pytest.fixture(scope="module")
def endless_bundle(tiny_bundle: Path) -> Bundle:
    """Without end-of-text ids: random weights would end a text anywhere."""
    return replace(Bundle.open(tiny_bundle), eos_token_ids=frozenset())


@pytest.fixture(scope="module")
def page(open_page: OpenPage, endless_bundle: Bundle) -> Page:
    return open_page(endless_bundle)
