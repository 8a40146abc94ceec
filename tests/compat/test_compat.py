"""Every cell of the consumers' table is ok. Sets the engines up: minutes, and a network."""

from __future__ import annotations

import pytest

from tests.compat.cells import OK
from tests.compat.run import measure, read_engines

pytestmark = pytest.mark.peers


@pytest.mark.parametrize("engine", read_engines(), ids=lambda engine: engine.name)
def test_the_tokens_are_those_of_our_runtime(engine, shared_data, tmp_path):
    (row,) = measure([engine], tmp_path, {}).values()
    assert row
    assert {name: word for name, word in row.items() if word != OK} == {}
