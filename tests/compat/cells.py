"""One engine on one bundle: its program is run, and its tokens become a word for each precision."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.engine.exact_products import exact_product_options
from tests.compat.environments import Engine
from tests.compat.expected import Continuation

TIMEOUT_SECONDS = 600
OK = "ok"
# Where activations are rounded, a sum in another order can move a value to the next step, and a logit by this much:
# which of two tokens so close comes first says nothing. Floats have no such excuse.
TIE_LOGITS = 5e-3
FLOATS = ("fp32", "fp16")
# How engines say that an operator is unknown to them.
MISSING_OPERATOR = (
    re.compile(r"Could not find an implementation for (\w+)"),
    re.compile(r"No Op registered for (\w+)"),
    re.compile(r"(?:type|operator) '(\w+)' from domain 'com\.microsoft'"),
    re.compile(r"does not support the following ONNX operations: ([\w., ]+)"),
)
LONGEST_MESSAGE = 120


@dataclass(frozen=True)
class Case:
    """A bundle, and what must come out of it.

    Attributes:
        bundle: its folder.
        files: precision -> ONNX file within it.
        prompts: token ids to go on from.
        expected: precision -> the right continuation of each prompt.
    """

    bundle: Path
    files: Mapping[str, str]
    prompts: Sequence[Sequence[int]]
    expected: Mapping[str, Sequence[Continuation]]


def run_cells(engine: Engine, case: Case, python: str | None = None) -> dict[str, str]:
    """A word for each precision: ok, where the tokens first differ, or what is missing."""
    new_tokens = len(case.expected["fp32"][0].token_ids)
    job = {
        "bundle": str(case.bundle),
        "files": case.files,
        "prompts": case.prompts,
        "new_tokens": new_tokens,
        "session_entries": exact_product_options(),
    }
    answers, end = _ask(engine, job, python)
    return {
        precision: _word(answers[precision], case.expected[precision], 0.0 if precision in FLOATS else TIE_LOGITS)
        if precision in answers
        else end
        for precision in case.files
    }


def _ask(engine: Engine, job: dict[str, Any], python: str | None) -> tuple[dict[str, Any], str]:
    """The program's answers, and how it ended, for the precisions that it did not come to."""
    with tempfile.TemporaryDirectory() as folder:
        job_file, answers_file = Path(folder) / "job.json", Path(folder) / "answers.json"
        job_file.write_text(json.dumps(job))
        command = [*engine.command(python), str(job_file), str(answers_file), *engine.options]
        try:
            result = subprocess.run(
                command, env=engine.variables(), capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
            )
            lines = result.stderr.strip().splitlines() or ["no message"]
            end = f"its program ended with {result.returncode}: {lines[-1][:LONGEST_MESSAGE]}"
        except subprocess.TimeoutExpired:
            end = f"not done after {TIMEOUT_SECONDS} s"
        answers = json.loads(answers_file.read_text()) if answers_file.is_file() else {}
    return answers, end


def is_ok(word: str) -> bool:
    """Whether a cell says that the tokens are the same, but for ties."""
    return word == OK or word.startswith(f"{OK}, ")


def _word(answer: Any, expected: Sequence[Continuation], tie: float) -> str:
    if isinstance(answer, dict):
        return _describe_error(answer["error"])
    ties = []
    for number, (found, right) in enumerate(zip(answer, expected, strict=True), start=1):
        if found == right.token_ids:
            continue
        pairs = enumerate(zip(found, right.token_ids, strict=False))
        at = next((place for place, (one, other) in pairs if one != other), len(found))
        is_other = at < min(len(found), len(right.margins))
        margin = right.margins[at] if is_other else 0.0
        if not is_other or margin >= tie:
            return f"prompt {number} differs at token {at + 1} (margin {margin:.2g})"
        ties.append(f"prompt {number} to a tie at token {at + 1} (margin {margin:.2g})")
    return ", ".join([OK, *ties])


def _describe_error(message: str) -> str:
    for pattern in MISSING_OPERATOR:
        if match := pattern.search(message):
            return f"lacks {match[1]}"
    return " ".join(message.split())[:LONGEST_MESSAGE]
