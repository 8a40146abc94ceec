"""docs/serving.md: its commands and programs run as they stand there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.app.api.serving import Served

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"
ADDRESS, SERVED = "localhost:8000", "smollm2"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("number", range(4))
def test_the_curl_lines_answer(api: Served, number) -> None:
    script = blocks("bash")[number]
    assert script.count("curl") == script.count(ADDRESS)
    script = script.replace(ADDRESS, api.url.removeprefix("http://")).replace("curl -s", "curl --fail-with-body -s")
    done = subprocess.run(["bash", "-e", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"error"' not in done.stdout.replace('"ErrorReply"', "") or number == 3
    if number in (0, 2):
        assert json.loads(done.stdout)["choices"][0]["finish_reason"] in ("stop", "length")
    if number == 1:
        assert done.stdout.endswith("data: [DONE]\n\n")


def test_every_curl_block_is_run() -> None:
    assert len(blocks("bash")) == 4


@pytest.mark.parametrize("library", ["openai", "langchain_openai"])
def test_the_programs_run(api: Served, library, capsys) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed (requirements-dev.txt)")
    (program,) = [block for block in blocks("python") if f"from {library} " in block]
    program = program.replace(f"http://{ADDRESS}", api.url).replace(SERVED, "tiny")
    exec(compile(program, str(PAGE), "exec"), {})
    assert capsys.readouterr().out.strip()
