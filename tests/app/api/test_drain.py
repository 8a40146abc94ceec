"""`python -m app serve` as a user meets it: it says where it is, and ends in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app.__main__ import main
from tests.signals import heed_ctrl_c

ROOT = Path(__file__).parents[3]
SLOW = Path(__file__).with_name("slow_serve.py")


@contextmanager
def process(*arguments: object, module: bool = True, **environment: str) -> Iterator[subprocess.Popen]:
    command = [sys.executable, *(["-m", "app"] if module else [str(SLOW)]), "serve", *map(str, arguments)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - it takes no lock
    ) as started:
        try:
            yield started
        finally:
            started.kill()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_after_a_signal_what_was_accepted_ends_and_what_is_new_gets_503(bundle_folder, free_port, sent) -> None:
    with process(bundle_folder, "--port", free_port, "--precision", "int8", module=False) as server:
        assert server.stdout.readline() == f"tiny-bundle (int8) is at http://127.0.0.1:{free_port}/v1\n"
        url = f"http://127.0.0.1:{free_port}"
        body = {"prompt": "The mouse", "max_tokens": 80, "ignore_eos": True, "temperature": 0}
        texts: list[str] = []

        def ask(stream: bool) -> None:
            answer = httpx.post(f"{url}/v1/completions", json={**body, "stream": stream}, timeout=30)
            if stream:
                events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
                assert events[-1] == "[DONE]"
                texts.append("".join(json.loads(event)["choices"][0]["text"] for event in events[:-1]))
            else:
                texts.append(answer.json()["choices"][0]["text"])

        threads = [threading.Thread(target=ask, args=(stream,)) for stream in (False, True)]
        for thread in threads:
            thread.start()
        while "smoltext_requests_running 2.0" not in httpx.get(f"{url}/metrics").text:
            time.sleep(0.01)
        server.send_signal(sent)
        time.sleep(0.2)
        refused = httpx.post(f"{url}/v1/completions", json=body)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "shutting_down"
        assert httpx.get(f"{url}/health").status_code == 503
        for thread in threads:
            thread.join()
        assert len(texts) == 2
        assert len(set(texts)) == 1
        out, err = server.communicate(timeout=10)
    assert (out, err, server.returncode) == ("", "", 0)


def test_a_second_signal_ends_it_at_once_and_so_does_the_time_to_drain(bundle_folder, free_port) -> None:
    for options, signals in (([], 2), (["--drain-seconds", "0.2"], 1)):
        arguments = (bundle_folder, "--port", free_port, *options)
        with process(*arguments, module=False) as server:
            server.stdout.readline()
            body = {"prompt": "x", "max_tokens": 180, "ignore_eos": True, "stream": True}
            url = f"http://127.0.0.1:{free_port}/v1/completions"
            with httpx.stream("POST", url, json=body) as answer:
                lines = answer.iter_lines()
                next(lines)
                for _ in range(signals):
                    server.send_signal(signal.SIGTERM)
                    time.sleep(0.05)
                started = time.monotonic()
                with pytest.raises(httpx.RemoteProtocolError):  # cut off, and not as if it were whole
                    list(lines)
                server.wait(10)
                assert time.monotonic() - started < 3


def test_the_key_comes_from_a_file_or_the_environment(bundle_folder, free_port, tmp_path) -> None:
    path = tmp_path / "key"
    path.write_text("abc\n")
    for options, environment in ((["--api-key-file", path], {}), ([], {"SMOLTEXT_API_KEY": "abc"})):
        with process(bundle_folder, "--port", free_port, *options, **environment) as server:
            server.stdout.readline()
            url = f"http://127.0.0.1:{free_port}/v1/models"
            assert httpx.get(url).status_code == 401
            assert httpx.get(url, headers={"authorization": "Bearer abc"}).status_code == 200


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--precision", "q2"], "q2"),
        (["--api-key-file", "/no/such/file"], "the API key cannot be read"),
        (["--queue", "-1"], "--queue must be at least 0"),
    ],
)
def test_a_mistake_is_one_line(bundle_folder, free_port, capsys, options, said) -> None:
    assert main(["serve", str(bundle_folder), "--port", str(free_port), *options]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
