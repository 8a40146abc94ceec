"""Train a tiny model twice: undisturbed, and killed ten times (SIGKILL) at random moments, and resumed each time.

With the argument `streamed` its data are a mixture of a stream that is read meanwhile, up to a limit, and of a file.

Each attempt is a fork of this process, so that ten of them take seconds; it has run no threads when it forks.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.train.conftest import TINY_SHAPE
from train.config import Recipe
from train.loop import train
from train.resume import resume_run
from train.run.folder import RunFolder
from train.setup import start_run

KILLS, STEPS = 10, 60


def recipe(parent, *, streamed):
    values = {
        "model": {"preset": "tiny", "overrides": TINY_SHAPE},
        "tokenizer": {"vocab_size": 400},
        "data": {"documents": 60, "held_out": 0.05, "context": 48, "batch_size": 2},
        "optimizer": {"lr": 1e-2},
        "schedule": {"steps": STEPS, "warmup_steps": 4, "decay_steps": 30},
        "run": {"evaluate_every": 5, "sample_every": 0, "save_every": 3},
        "machine": {"device": "cpu", "threads": 1},
    }
    if streamed:
        book = parent / "book.jsonl"
        book.write_text("".join(json.dumps({"text": f"Page {n} of the book."}) + "\n" for n in range(200)))
        stories = {"path": "stories", "stream": True, "max_documents": 50, "max_tokens": 2500, "weight": 3}
        values["data"] |= {"sources": [stories, {"path": str(book), "weight": 1}], "shuffle_rows": 25}
    return Recipe.from_dict(values)


def forked(work):
    """The process id of a fork of this process that does some work and exits with 0."""
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        work()
        os._exit(0)
    return pid


def start(recipe, folder):
    return lambda: train(start_run(recipe, RunFolder(folder)))


def resume(folder):
    return lambda: train(resume_run(RunFolder(folder)))


def exit_code(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def lines(folder):
    path = folder / "metrics.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def kill_once(folder, work, dice):
    """Let it work until some steps further and a random while, which falls into steps, evaluations and saves alike."""
    goal = lines(folder) + 1 + dice.randrange(4)
    pid = forked(work)
    while lines(folder) < goal or not any((folder / "state").glob("step-*")):
        time.sleep(0.001)
    time.sleep(dice.random() * 0.05)
    os.kill(pid, signal.SIGKILL)
    return exit_code(pid) == -signal.SIGKILL


def main(parent, kind=""):
    made = recipe(parent, streamed=kind == "streamed")
    undisturbed, killed = parent / "undisturbed", parent / "killed"
    assert exit_code(forked(start(made, undisturbed))) == 0
    dice, kills, work = random.Random(), 0, start(made, killed)
    while kills < KILLS:
        kills += kill_once(killed, work, dice)
        work = resume(killed)
        if lines(killed) >= STEPS - 5:  # too few steps are left for the kills that are: another run
            shutil.rmtree(killed)
            kills, work = 0, start(made, killed)
    assert exit_code(forked(work)) == 0

    def same(name):
        return (undisturbed / name).read_bytes() == (killed / name).read_bytes()

    losses = [
        [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (undisturbed, killed)
    ]
    report = {
        "kills": kills,
        "same_weights": same("checkpoint/model.safetensors") and same("best/model.safetensors"),
        "same_losses": losses[0] == losses[1] and len(losses[0]) == STEPS,
        "leftovers": [str(path) for pattern in ("*.partial", ".*.old") for path in killed.rglob(pattern)],
    }
    print(json.dumps(report))


main(Path(sys.argv[1]), *sys.argv[2:])
