"""One writer per run folder: the second is told who the first is, and nothing of the first's is touched."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from train.errors import RunError
from train.loop import train
from train.resume import resume_run
from train.run.claim import LOCK, claim, release
from train.run.metrics import read_metrics
from train.setup import start_run

REPOSITORY = Path(__file__).parents[3]
HOLDER = """
import sys, time
from pathlib import Path
from train.run.claim import claim
claim(Path(sys.argv[1]))
print("claimed", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Starts a process that claims a folder, and waits until it has."""
    processes = []

    def start(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout.readline() == "claimed\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_is_told_who_writes(tiny_run, tmp_path, holder):
    process = holder(tmp_path / "run")
    with pytest.raises(RunError, match=rf"run is being written by process {process.pid} on .* since 20"):
        tiny_run()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]


def test_overwriting_does_not_touch_a_run_that_goes_on(tiny_run, tiny_recipe, holder):
    run = tiny_run()
    train(run)
    holder(run.folder.path)
    before = files(run.folder.path)
    with pytest.raises(RunError, match="is being written by process"):
        start_run(tiny_recipe(), run.folder, overwrite=True)
    assert files(run.folder.path) == before


def test_a_second_resume_is_refused_and_loses_no_metrics(tiny_run, holder):
    run = tiny_run()
    train(run, stop_at=7)
    holder(run.folder.path)
    before = files(run.folder.path)
    with pytest.raises(RunError, match="is being written by process"):
        resume_run(run.folder)
    with pytest.raises(RunError, match="is being written by process"):
        train(run)
    assert files(run.folder.path) == before
    assert len(read_metrics(run.folder.metrics)) == 7


def test_a_killed_process_leaves_no_claim(tiny_run, tmp_path, holder):
    process = holder(tmp_path / "run")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "run" / LOCK).exists()
    tiny_run()


def test_the_folder_belongs_to_a_run_before_its_text_is_read(tiny_run, tmp_path, monkeypatch):
    """The time between the check and the first file is minutes where text is tokenized."""
    seen = []

    def read_text(*_):
        seen.append([path.name for path in (tmp_path / "run").iterdir()])
        raise KeyboardInterrupt

    monkeypatch.setattr("train.setup.make_tokenizer", read_text)
    with pytest.raises(KeyboardInterrupt):
        tiny_run()
    assert seen == [[LOCK]]
    assert not (tmp_path / "run").exists()


def test_what_appears_after_the_check_is_not_deleted(tiny_run, tiny_recipe, monkeypatch):
    run = tiny_run()
    train(run)
    letter = run.folder.path / "letter.txt"
    create = type(run.folder).create

    def write_then_create(folder, *arguments, **options):
        letter.write_text("dear")
        create(folder, *arguments, **options)

    monkeypatch.setattr(type(run.folder), "create", write_then_create)
    again = start_run(tiny_recipe(), type(run.folder)(run.folder.path), overwrite=True)
    assert letter.read_text() == "dear"
    assert not again.folder.metrics.exists()


def test_a_claim_is_given_up_with_the_folder_it_made(tmp_path):
    folder = tmp_path / "runs" / "mine"
    claim(folder)
    claim(folder)
    release(folder)
    release(folder)
    assert not (tmp_path / "runs").exists()


def test_a_claim_is_its_process_alone(tmp_path):
    """A forked child has its parent's memory, and not its lock."""
    claim(tmp_path)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            claim(tmp_path)
        except RunError:
            code = 0
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    release(tmp_path)
