"""Many visitors at once: no errors, no text that is another's, and everybody is served."""

from __future__ import annotations

import asyncio
import os

from benchmarks.visitors import visit
from tests.app.sites import endless, served


def test_sixteen_visitors_are_served_side_by_side(stories260k_bundle) -> None:
    with served(endless(stories260k_bundle), slots=4, queue=32) as site:
        tally = asyncio.run(visit(site.url, clients=16, seconds=4, tokens=24, pid=os.getpid()))
        assert not tally.errors
        assert not tally.crossed
        assert len(tally.served) == 16
        assert {"whole", "stopped", "vanished"} == set(tally.done)
        site.wait_until_free()
