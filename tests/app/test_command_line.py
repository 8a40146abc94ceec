"""`python -m app` as a user meets it: help, mistakes, start and end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.signals import heed_ctrl_c

ROOT = Path(__file__).parents[2]


def run_app(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_is_quick_and_has_an_example(arguments) -> None:
    run_app(*arguments)  # the first reading of the files is the disk's time, not ours
    started = time.perf_counter()
    done = run_app(*arguments)
    assert time.perf_counter() - started < 0.5
    assert done.returncode == 0
    assert "example:\n  python -m app run bundles/demo" in done.stdout


def test_the_app_knows_no_torch_no_onnx_and_does_not_call_home() -> None:
    code = (
        "import sys, app.commands, app.page, app.server, gradio.analytics; "
        "assert not {'torch', 'onnx', 'transformers', 'model', 'train', 'export'} & sys.modules.keys(); "
        "assert not gradio.analytics.analytics_enabled()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("arguments", [["run"], ["run", "b", "--port", "0"], ["run", "b", "--port", "x"], ["fly"]])
def test_a_usage_error_is_2(arguments) -> None:
    assert run_app(*arguments).returncode == 2


def test_a_missing_bundle_is_one_line(tmp_path, free_port) -> None:
    assert_one_line_error(run_app("run", tmp_path / "no-such-bundle", "--port", free_port), "no-such-bundle")


def test_an_unknown_precision_is_one_line(bundle_folder, free_port) -> None:
    assert_one_line_error(run_app("run", bundle_folder, "--precision", "q2", "--port", free_port), "q2")


def test_a_taken_port_is_one_line(bundle_folder) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert_one_line_error(
            run_app("run", bundle_folder, "--port", port), f"127.0.0.1:{port}: address already in use"
        )


def assert_one_line_error(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_it_serves_until_ctrl_c_and_then_ends_quietly(bundle_folder, free_port) -> None:
    command = [sys.executable, "-m", "app", "run", str(bundle_folder), "--port", str(free_port)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - it takes no lock
    ) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first == f"tiny-bundle (int8) is at http://127.0.0.1:{free_port}/\n"
            assert process.stdout.readline().endswith("/v1 (OpenAI's API). Press Ctrl-C to stop.\n")
            with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/", timeout=10) as answer:
                assert b"tiny-bundle" in answer.read()
            with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/v1/models", timeout=10) as answer:
                assert b'"tiny-bundle"' in answer.read()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=10)
        finally:
            process.kill()
    assert (out, err, process.returncode) == ("", "", 0)
