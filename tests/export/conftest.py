"""What the tests of `export` share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.export.graphs import make_checkpoint
from tests.export.hub_server import TOKEN, running_hub
from tests.goldens.make_tiny_bundle import VOCAB_SIZE, make_tokenizer

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread():
    """torch's threads wait for one another in busy loops: on a machine with other work that costs tenfold."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoint_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    make_checkpoint(folder, {"vocab_size": VOCAB_SIZE, "bos_token_id": 0, "eos_token_id": 0})
    make_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def hub():
    with running_hub() as hub:
        yield hub


@pytest.fixture
def run(hub, tmp_path):
    """Run a command line against the Hub; HF_ENDPOINT is read when huggingface_hub is loaded, so in a process."""

    def run(*arguments, token: str | None = TOKEN, endpoint: str | None = None, offline: bool = False):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {
            "HF_ENDPOINT": endpoint or hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": str(int(offline)),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
        }
        if token is not None:
            environment["HF_TOKEN"] = token
        command = [sys.executable, "-m", *map(str, arguments)]
        return subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    return run
