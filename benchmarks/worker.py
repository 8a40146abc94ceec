"""One engine in a process of its own, asked over its standard input and output, a line of JSON each way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ENGINES = Path(__file__).parent / "engines"
SECONDS_TO_END = 10


class Worker:
    """A started engine.

    Args:
        specification: KIND:PYTHON:MODEL[:ARGUMENT], see `python -m benchmarks --help`.
        threads: of the engine.

    Raises:
        ValueError: no such kind, or parts are missing.
        RuntimeError: the engine ended instead of answering; its own words are on stderr.
    """

    def __init__(self, specification: str, threads: int) -> None:
        kind, *rest = specification.split(":")
        kinds = sorted(path.stem.removeprefix("run_") for path in ENGINES.glob("run_*.py"))
        if kind not in kinds or len(rest) < 2:
            raise ValueError(f"{specification!r} is no KIND:PYTHON:MODEL; kinds are {', '.join(kinds)}")
        python, model, *more = rest
        self._name = specification
        # run_openvino.py, not openvino.py: a script's own folder comes first where Python looks for modules.
        program = str(ENGINES / f"run_{kind}.py")
        command = [sys.executable if python == "-" else python, program, model, str(threads), *more]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
        try:
            self._answer()  # it says {"ready": true} when its model is loaded
        except RuntimeError:
            self.close()
            raise

    def ask(self, prompt_tokens: int, new_tokens: int) -> dict[str, float]:
        """Seconds of one prefill and of the decodes behind it: `prefill_seconds`, `decode_seconds`."""
        return self._request({"prompt_tokens": prompt_tokens, "new_tokens": new_tokens})

    def peak_bytes(self) -> int:
        """The most memory that the engine's process has had resident."""
        return int(self._request({"peak": True})["peak_bytes"])

    def close(self) -> None:
        """End the process."""
        try:
            self._process.communicate(timeout=SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _request(self, message: dict[str, object]) -> dict[str, float]:
        if self._process.stdin is None:
            raise RuntimeError(f"{self._name} cannot be asked")
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, float]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise RuntimeError(f"{self._name} ended instead of answering; see its message above")
        answer: dict[str, float] = json.loads(line)
        return answer
