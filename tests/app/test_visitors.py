"""Many visitors at once: no errors, no text that is another's, and everybody is served."""

from __future__ import annotations

import asyncio
import os

import pytest

from benchmarks.visitors import main, visit
from tests.app.sites import endless, served


def test_sixteen_visitors_are_served_side_by_side(stories260k_bundle) -> None:
    with served(endless(stories260k_bundle), slots=4, queue=32) as site:
        tally = asyncio.run(visit(site.url, clients=16, seconds=4, tokens=24, pid=os.getpid()))
        assert not tally.errors
        assert not tally.crossed
        assert len(tally.served) == 16
        assert {"whole", "stopped", "vanished"} == set(tally.done)
        site.wait_until_free()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense"])
def test_a_page_that_is_not_there_is_one_line(url, capsys) -> None:
    assert main([url, "--seconds", "1"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {url} is not a page that is served")
