"""The tiny bundle, and ports that are free."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

TINY_BUNDLE = Path(__file__).parents[1] / "goldens" / "tiny-bundle"


@pytest.fixture(scope="session")
def bundle_folder() -> Path:
    if not (TINY_BUNDLE / "onnx").is_dir():
        pytest.skip("tests/goldens/tiny-bundle is not there: python -m tests.goldens.make_tiny_bundle")
    return TINY_BUNDLE


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def free_port() -> int:
    return find_free_port()


@pytest.fixture(scope="module")
def module_port() -> int:
    return find_free_port()
