"""Every cell of the consumers' table is ok, or engines.toml says why not. Sets engines up: minutes, and a network."""

from __future__ import annotations

import pytest

from tests.compat.run import faults, measure, read_engines

pytestmark = pytest.mark.peers


@pytest.mark.parametrize("engine", read_engines(), ids=lambda engine: engine.name)
def test_the_tokens_are_those_of_our_runtime(engine, shared_data, tmp_path):
    table = measure([engine], tmp_path, {})
    assert table[engine.name]
    assert faults([engine], table) == []
