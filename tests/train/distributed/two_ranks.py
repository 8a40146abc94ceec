"""What two processes do for `test_ranks`, in one start of torchrun: runs with DDP and FSDP2, and a run gone on with."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from train.config import read_recipe
from train.distributed.ranks import leave_ranks
from train.loop import train
from train.resume import resume_run
from train.run.folder import RunFolder
from train.setup import start_run

RUNS = {
    "ddp": ["machine.sharding=ddp", "machine.micro_batch_size=1"],
    "fsdp": ["machine.sharding=fsdp", "machine.recompute_activations=true"],
    "muon": ["machine.sharding=fsdp", "optimizer.name=muon", "schedule.steps=9"],
}


def main(folder):
    for name, overrides in RUNS.items():
        train(start_run(read_recipe(str(folder / "recipe.toml"), overrides), RunFolder(folder / name)))
    train(resume_run(RunFolder(folder / "halfway"), ["machine.sharding=fsdp"]))
    leave_ranks()


main(Path(sys.argv[1]))
