"""Two replicas behind Debian's nginx, one of which is restarted while clients ask."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.app.conftest import find_free_port

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "app" / "deploy" / "nginx.conf"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
CLIENTS = 8
BODY = {"prompt": "The mouse", "max_tokens": 40, "ignore_eos": True, "temperature": 0}

pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx (apt-get install nginx-light)")


@contextmanager
def proxy(folder: Path, ports: list[int], port: int) -> Iterator[str]:
    """nginx with the committed configuration, at other addresses."""
    text = CONFIG.read_text().replace("listen 80;", f"listen 127.0.0.1:{port};")
    for number, replica in enumerate(ports, 1):
        text = text.replace(f"replica{number}:8000", f"127.0.0.1:{replica}")
    (folder / "site.conf").write_text(text)
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;"
        f"events {{}} http {{ access_log off; {temporary} include {folder}/site.conf; }}"
    )
    command = [NGINX, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def replica(bundle: Path, port: int) -> subprocess.Popen:
    script = Path(__file__).with_name("slow_serve.py")
    command = [sys.executable, script, "serve", bundle, "--port", str(port), "--threads", "1", "--model-name", "tiny"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def test_a_replica_restarted_under_load_loses_no_accepted_request(bundle_folder, tmp_path) -> None:
    ports = [find_free_port() for _ in range(3)]
    replicas = [replica(bundle_folder, port) for port in ports[:2]]
    try:
        for process in replicas:
            assert "is at http" in process.stdout.readline()
        with proxy(tmp_path, ports[:2], ports[2]) as url:
            results = asyncio.run(ask_while_restarting(url, bundle_folder, replicas, ports))
    finally:
        for process in replicas:
            process.kill()
            process.wait()
            process.stdout.close()
    assert len(results) > 4 * CLIENTS
    assert set(results) == {results[0]}
    assert results[0][0] == 200


async def ask_while_restarting(url: str, bundle: Path, replicas: list, ports: list[int]) -> list[tuple[int, str]]:
    results: list[tuple[int, str]] = []
    is_over = asyncio.Event()
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await wait_until_up(client)

        async def visitor(stream: bool) -> None:
            while not is_over.is_set():
                answer = await client.post("/v1/completions", json=BODY | {"stream": stream})
                text = answer.text
                if stream and answer.status_code == 200:
                    assert text.endswith("data: [DONE]\n\n"), "a stream was cut off"
                    text = "".join(
                        json.loads(line[6:])["choices"][0]["text"] for line in text.splitlines() if line[6:7] == "{"
                    )
                elif answer.status_code == 200:
                    text = answer.json()["choices"][0]["text"]
                results.append((answer.status_code, text))

        visitors = [asyncio.create_task(visitor(number % 2 == 0)) for number in range(CLIENTS)]
        await asyncio.sleep(1)
        await restart(bundle, replicas, ports)
        await asyncio.sleep(1)
        is_over.set()
        await asyncio.gather(*visitors)
    return results


async def restart(bundle: Path, replicas: list, ports: list[int]) -> None:
    old = replicas[0]
    old.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(old.wait, 30) == 0
    old.stdout.close()
    replicas[0] = replica(bundle, ports[0])
    assert "is at http" in await asyncio.to_thread(replicas[0].stdout.readline)


async def wait_until_up(client: httpx.AsyncClient) -> None:
    ends = time.monotonic() + 10
    while True:
        try:
            if (await client.get("/health")).status_code == 200:
                return
        except httpx.ConnectError:
            pass
        assert time.monotonic() < ends
        await asyncio.sleep(0.05)
