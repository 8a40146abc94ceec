"""What the docs say to run, runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BUNDLE = "bundles/smollm2"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def test_every_program_of_the_runtimes_page_runs(tiny_bundle, tmp_path, monkeypatch, capsys):
    """In order, as a reader would try them, with a small model in place of SmolLM2.

    It has no KV cache of int8, so fp32 stands in where a page needs batch invariance.
    """
    pytest.importorskip("llguidance", reason="the page constrains an output: pip install llguidance")
    shutil.copytree(tiny_bundle, tmp_path / BUNDLE)
    (tmp_path / "prompts.jsonl").write_text(
        "".join(line + "\n" for line in blocks("runtime.md", "json")[0].splitlines())
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    programs = blocks("runtime.md", "python")
    for program in programs:
        exec(compile(program.replace("int8-kv8", "fp32"), "docs/runtime.md", "exec"), names)
    assert len(programs) >= 5
    printed = capsys.readouterr().out
    assert printed.startswith('{"name": "')
    assert "tokens were computed" in printed
