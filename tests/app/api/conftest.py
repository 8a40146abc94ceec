"""The tiny bundle, served once for all tests that change nothing, and OpenAI's own client to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.app.api.serving import Served, endless, served


@pytest.fixture(scope="session")
def api(tiny_bundle) -> Iterator[Served]:
    with served(endless(tiny_bundle)) as found:
        yield found


@pytest.fixture(scope="session")
def client(api):
    openai = pytest.importorskip("openai", reason="openai is not installed (requirements-dev.txt)")
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0, timeout=60) as found:
        yield found
