"""`batch --engine ray` on a cluster of this machine: the lines are those of the local engine, whatever happens."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("ray", reason="ray is not installed (requirements-extras.txt)")

ROOT = Path(__file__).parents[3]


def command(bundle: Path, source: Path, out: Path, *options: object) -> list[str]:
    fixed = ["--precision", "int8", "--threads", "1", "--seed", "3", "--batch-size", "4"]
    return [sys.executable, "-m", "runtime", "batch", str(bundle), str(source), "--out", str(out), *fixed, *options]


def write_lines(path: Path, count: int) -> None:
    draw = random.Random(0)
    with path.open("w") as file:
        for number in range(count):
            words = " ".join(draw.choices(["mouse", "cat", "the", "stairs"], k=draw.randint(1, 20)))
            record = {"prompt": words, "max_new_tokens": draw.randint(20, 120), "id": number}
            file.write(json.dumps({"prompt": 5} if number % 17 == 3 else record) + "\n\n"[: 1 + number % 2])


def workers_of(parent: int) -> list[int]:
    """The actors below a process."""
    parents, found = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
            if b"ray::MapWorker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue

    def is_below(pid: int) -> bool:
        return pid == parent or (pid in parents and is_below(parents[pid]))

    return [pid for pid in found if is_below(pid)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_two_workers_one_of_which_is_killed_write_the_local_lines(tiny_bundle, tmp_path, kind) -> None:
    source, local, remote = tmp_path / "in.jsonl", tmp_path / f"local.{kind}", tmp_path / f"remote.{kind}"
    write_lines(source, 600)
    assert subprocess.run(command(tiny_bundle, source, local), cwd=ROOT, check=False).returncode == 1  # bad lines
    partial = tmp_path / f"{remote.name}.partial"
    arguments = command(tiny_bundle, source, remote, "--engine", "ray", "--workers", "2")
    with subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while not (partial.exists() and partial.stat().st_size):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        victims = workers_of(process.pid)
        assert len(victims) == 2
        os.kill(victims[0], signal.SIGKILL)
        _, told = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "lines failed" in told
    assert remote.read_bytes() == local.read_bytes()


@pytest.mark.slow
def test_what_was_stopped_goes_on_with_either_engine(tiny_bundle, tmp_path) -> None:
    source, local, remote = tmp_path / "in.jsonl", tmp_path / "local.jsonl", tmp_path / "remote.jsonl"
    write_lines(source, 300)
    subprocess.run(command(tiny_bundle, source, local), cwd=ROOT, check=False)
    whole = local.read_bytes()
    lines = whole.splitlines(keepends=True)
    record = json.loads((tmp_path / "local.jsonl.job.json").read_text()) | {"finished": None}
    (tmp_path / "remote.jsonl.job.json").write_text(json.dumps(record))
    (tmp_path / "remote.jsonl.partial").write_bytes(b"".join(lines[:100]) + lines[100][:7])
    subprocess.run(command(tiny_bundle, source, remote, "--engine", "ray", "--workers", "2"), cwd=ROOT, check=False)
    assert remote.read_bytes() == whole


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--regex", "("], "invalid regex"),
        (["--batch-size", "0"], "batch_size must be at least 1"),
        (["--top-k", "-1"], "top_k"),
    ],
)
def test_what_no_worker_could_do_is_one_line_before_there_is_a_cluster(tiny_bundle, tmp_path, run, options, said):
    write_lines(tmp_path / "in.jsonl", 3)
    arguments = [*command(tiny_bundle, tmp_path / "in.jsonl", tmp_path / "out.jsonl", "--engine", "ray"), *options]
    code, out, err = run(*arguments[3:])
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert said in err


def test_stdin_is_refused(tiny_bundle, tmp_path, run, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b'{"prompt": "x"}\n')))
    code, _, err = run(*command(tiny_bundle, Path("-"), tmp_path / "out.jsonl", "--engine", "ray")[3:])
    assert (code, err) == (1, "error: --engine ray reads a file, which its workers open themselves\n")
