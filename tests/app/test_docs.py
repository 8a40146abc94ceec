"""docs/app.md: its commands and its program run as they stand there."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.__main__ import parse_args
from tests.app.sites import Served, endless, served

PAGE = Path(__file__).parents[2] / "docs" / "app.md"
ADDRESS = "localhost:7860"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def site(tiny_bundle) -> Iterator[Served]:
    with served(endless(tiny_bundle)) as found:
        found.wait(lambda: found.site._gradio is not None, 60)
        yield found


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize(("number", "ending"), [(0, "event: complete"), (1, "data: [DONE]")])
def test_the_curl_lines_answer(site: Served, number, ending) -> None:
    assert len(blocks("bash")) == 2
    script = blocks("bash")[number].replace(ADDRESS, site.url.removeprefix("http://"))
    script = script.replace("curl -s", "curl --fail-with-body -s")
    done = subprocess.run(["bash", "-e", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ending in done.stdout
    assert "error" not in done.stdout


def test_the_program_runs(site: Served, capsys) -> None:
    pytest.importorskip("gradio_client")
    (program,) = blocks("python")
    names: dict = {}
    exec(compile(program.replace(f"http://{ADDRESS}", site.url), str(PAGE), "exec"), names)
    names["client"].close()
    told = capsys.readouterr().out
    assert "/continue_text" in told
    assert told.splitlines()[-1].startswith("[{'name': ")


def test_the_options_are_those_of_the_command() -> None:
    args = vars(parse_args(["run", "b"]))
    table = re.findall(r"^\| `--([a-z-]+)[ `].*\| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(table) == 12
    for option, default in table:
        value = args[option.replace("-", "_")]
        if isinstance(value, int) and not isinstance(value, bool) and value < 2**20:
            assert str(value) == default
