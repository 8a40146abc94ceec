"""The page, served by a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.app.conftest import find_free_port

ROOT = Path(__file__).parents[3]
STARTING_SECONDS = 30


@dataclass
class ServedPage:
    """Where it is, and its process."""

    url: str
    process: subprocess.Popen

    def state(self) -> dict:
        return httpx.get(f"{self.url}/page/state", timeout=10).json()

    def wait_until_idle(self) -> None:
        """Until no visitor's text waits or runs."""
        wait_until(lambda: self.state()["texts"] == 0, "a text still runs for nobody")

    def wait_until_ready(self) -> None:
        wait_until(lambda: self.state()["state"] == "ready", "the model was not opened")


@dataclass
class GatedPage(ServedPage):
    """A page whose model takes the steps that a test allows, one text at a time."""

    folder: Path

    def steps(self) -> int:
        path = self.folder / "steps"
        return int(path.read_text() or 0) if path.exists() else 0

    def hold(self) -> None:
        """Let no further step be taken."""
        self._limit(self.steps())

    def let(self, steps: int) -> None:
        """Let so many more steps be taken, and wait until they are."""
        goal = self.steps() + steps
        self._limit(goal)
        wait_until(lambda: self.steps() >= goal, "the steps are not taken")

    def go(self) -> None:
        """Let all steps be taken."""
        (self.folder / "limit").unlink(missing_ok=True)

    def _limit(self, steps: int) -> None:
        fresh = self.folder / "limit.new"
        fresh.write_text(str(steps))
        fresh.rename(self.folder / "limit")


def wait_until(condition, fault: str, seconds: float = 10) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, fault
        time.sleep(0.01)


@contextmanager
def serve(bundle: Path, *options: str, port: int | None = None, gate: Path | None = None) -> Iterator[ServedPage]:
    """Run `python -m app run` until the end of the block; with a gate's folder, its steps are allowed by the test."""
    port = port or find_free_port()
    program = ["-m", "app"] if gate is None else [str(Path(__file__).with_name("gated_run.py")), str(gate)]
    command = [sys.executable, *program, "run", str(bundle), "--port", str(port), "--threads", "1", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        url = f"http://127.0.0.1:{port}"
        served = ServedPage(url, process) if gate is None else GatedPage(url, process, gate)
        try:
            _wait_for(served)
            yield served
        finally:
            process.kill()


def _wait_for(served: ServedPage) -> None:
    ends = time.monotonic() + STARTING_SECONDS
    while True:
        assert served.process.poll() is None, served.process.stderr.read()
        try:
            httpx.get(f"{served.url}/page/state", timeout=10)
        except httpx.TransportError:
            assert time.monotonic() < ends, "the page does not come up"
            time.sleep(0.05)
        else:
            return
