"""The loop that every Python engine's program shares. Standard library only: each runs in an environment of its own.

A program is called with the path of a job and the path for its answers:
job: {"bundle": folder, "files": {precision: file}, "prompts": [[token ids], ...], "new_tokens": n,
      "session_entries": {name: value}, under which onnxruntime multiplies 8-bit integers exactly here}
answers: {precision: [[new token ids], ...] or {"error": text}}
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Generate = Callable[[list[int], int], list[int]]


def read_job() -> dict[str, Any]:
    """What is asked for."""
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    return job


def answer(load: Callable[[Path, str], Generate]) -> None:
    """For every precision: load(bundle, file) gives generate(prompt_ids, new_tokens), which is asked each prompt."""
    job = read_job()
    answers = {}
    for precision, file in job["files"].items():
        try:
            generate = load(Path(job["bundle"]), file)
            answers[precision] = [generate(prompt, job["new_tokens"]) for prompt in job["prompts"]]
        except Exception as error:  # noqa: BLE001 - whatever an engine raises is its answer
            answers[precision] = {"error": f"{type(error).__name__}: {error}"}
        Path(sys.argv[2]).write_text(json.dumps(answers))  # after each: what comes next may crash
