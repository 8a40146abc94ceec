"""The tiny bundle, its models, and a count of what they compute."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from app.models import Models
from runtime.bundle import Bundle
from runtime.engine.session import DecoderSession

TINY_BUNDLE = Path(__file__).parents[1] / "goldens" / "tiny-bundle"


@dataclass
class ForwardCalls:
    """How often any session computed, and how long each call is made to take."""

    count: int = 0
    delay_seconds: float = 0.0


@pytest.fixture(scope="session")
def bundle_folder() -> Path:
    if not (TINY_BUNDLE / "onnx").is_dir():
        pytest.skip("tests/goldens/tiny-bundle is not there: python -m tests.goldens.make_tiny_bundle")
    return TINY_BUNDLE


@pytest.fixture
def models(bundle_folder: Path) -> Models:
    """The tiny bundle without end-of-text ids: its random weights would end a text anywhere."""
    return Models(replace(Bundle.open(bundle_folder), eos_token_ids=frozenset()), threads=1)


@pytest.fixture
def forward_calls(monkeypatch: pytest.MonkeyPatch) -> ForwardCalls:
    calls = ForwardCalls()
    forward = DecoderSession.forward

    def counted(*args, **kwargs):
        calls.count += 1
        time.sleep(calls.delay_seconds)
        return forward(*args, **kwargs)

    monkeypatch.setattr(DecoderSession, "forward", counted)
    return calls


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
