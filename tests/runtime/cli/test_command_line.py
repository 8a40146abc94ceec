"""Processes: pipes that close, terminals that are not UTF-8, and help that waits for nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
HEAVY = ("numpy", "onnxruntime", "tokenizers", "jinja2", "huggingface_hub", "torch", "onnx", "gradio")


def shell(script, **environment):
    """Runs a line of bash, in which `runtime` is the command."""
    function = f'runtime() {{ "{sys.executable}" -m runtime "$@"; }}; '
    return subprocess.run(
        ["bash", "-c", function + script],
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("arguments", [[], ["generate"], ["chat"], ["batch"], ["bench"], ["perplexity"]], ids=" ".join)
def test_help_loads_nothing_heavy_and_shows_an_example(arguments):
    script = f"""
import runpy, sys
sys.argv = ["runtime", *{arguments!r}, "--help"]
try:
    runpy.run_module("runtime", run_name="__main__")
except SystemExit as stop:
    assert stop.code == 0
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "usage: python -m runtime" in done.stdout
    assert "example:\n  python -m runtime" in done.stdout


def test_a_reader_that_leaves_ends_the_command_without_a_word(tiny_bundle):
    done = shell(f"runtime generate {tiny_bundle} --prompt 'the cat' --greedy --max-new-tokens 150 | head -c 1")
    assert (done.stdout, done.stderr) == (b"t", b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_is_one_line(tiny_bundle):
    done = shell(f"runtime generate {tiny_bundle} --greedy --max-new-tokens 5 > /dev/full")
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: ")
    assert done.stderr.count(b"\n") == 1


def test_a_closed_stdout_is_no_fault(tiny_bundle):
    done = shell(f"runtime generate {tiny_bundle} --greedy --max-new-tokens 5 >&-")
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_terminal_that_is_not_utf8_shows_what_it_can(tiny_bundle):
    done = shell(f"runtime generate {tiny_bundle} --prompt 'née' --greedy --max-new-tokens 3", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"n?e")


def test_a_prompt_that_is_not_utf8_is_one_line(tiny_bundle):
    done = shell(f"runtime generate {tiny_bundle} --prompt $'a\\xff'")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: the text is not valid Unicode")
    assert done.stderr.count(b"\n") == 1


def test_questions_may_be_piped_into_a_chat(tiny_bundle):
    done = shell(
        f"printf 'hello\\nand you?\\n' | runtime chat {tiny_bundle} --line-by-line --greedy --max-new-tokens 4"
    )
    assert done.returncode == 0
    assert done.stdout.count(b"\n") >= 2


def test_a_hub_id_without_a_network_is_one_line():
    pytest.importorskip("huggingface_hub")
    done = shell("runtime generate nobody/nothing", HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: there is no folder nobody/nothing, and the Hub could not be asked")
    assert done.stderr.count(b"\n") == 1
