"""`python -m app` as a user meets it: help, mistakes, start and end."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from app.serving import model_name
from runtime import Bundle
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
        "import sys, app.commands, app.site, app.endpoints, gradio.analytics; "
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


@pytest.mark.parametrize("is_streaming", [False, True])
def test_it_serves_until_ctrl_c_and_then_ends_quietly(bundle_folder, free_port, is_streaming) -> None:
    """At once, also while a page is open and a text is under way."""
    command = [sys.executable, "-m", "app", "run", str(bundle_folder), "--port", str(free_port)]
    url = f"http://127.0.0.1:{free_port}"
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
            assert process.stdout.readline() == f"tiny-bundle (int8) is at {url}/\n"
            assert process.stdout.readline().endswith("/v1 (OpenAI's API). Press Ctrl-C to stop.\n")
            with httpx.Client(base_url=url) as client:
                assert "tiny-bundle" in client.get("/").text
                while client.get("/page/state").json()["state"] != "ready":
                    time.sleep(0.02)
                assert client.get("/v1/models").json()["data"][0]["id"] == "tiny-bundle"
                if is_streaming:
                    with client.stream("POST", "/page/continue", json={"text": "The", "sampling": {}}) as answer:
                        next(answer.iter_lines())
                        process.send_signal(signal.SIGINT)
                        process.wait(15)
                else:
                    process.send_signal(signal.SIGINT)
                    process.wait(15)
            out, err = process.communicate(timeout=10)
        finally:
            process.kill()
    assert (out, err, process.returncode) == ("", "", 0)


def test_the_page_is_there_before_torch_or_gradio_would_be(bundle_folder) -> None:
    """`app run` answers before it imports Gradio, which takes seconds, and never imports torch."""
    code = (
        "import sys, app.commands, app.serving, app.site; "
        "assert not {'gradio', 'torch', 'pandas', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize(
    ("stored", "folder", "name"),
    [("The Mouse", "b", "The Mouse"), ("", "b", "b"), (None, "b", "b"), (5, "b", "b")],
)
def test_the_name_is_the_bundles_own_or_else_the_folders(tiny_bundle, tmp_path, stored, folder, name) -> None:
    shutil.copytree(tiny_bundle, tmp_path / folder)
    manifest = json.loads((tmp_path / folder / "manifest.json").read_text()) | {"name": stored}
    (tmp_path / folder / "manifest.json").write_text(json.dumps(manifest))
    assert model_name(Bundle.open(tmp_path / folder), str(tmp_path / folder)) == name
