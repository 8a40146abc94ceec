"""The command line of `train`. Importing it loads no torch, so `--help` answers at once."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from runtime.cli.command_line import run_to_exit_code
from runtime.errors import SmolTextError
from train import commands
from train.distributed.launch import LAUNCHED, heed_launcher, is_follower, launch

FOLLOWER_WAIT_SECONDS = 5.0


def build_parser() -> argparse.ArgumentParser:
    """All commands and options; a command's function is its `function` default."""
    parser = argparse.ArgumentParser(
        prog="python -m train",
        description="Train a language model: from text to a checkpoint folder that `python -m export` takes.",
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    run = _command(
        subparsers, commands.run, "python -m train run stories-tiny --out runs/stories --set optimizer.lr=1e-3"
    )
    run.add_argument("recipe", metavar="RECIPE", help="a TOML file, or the name of a recipe in train/recipes")
    run.add_argument("--out", type=Path, required=True, help="the run folder to make")
    run.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a recipe's value"
    )
    run.add_argument("--overwrite", action="store_true", help="delete the run at --out first")

    resume = _command(subparsers, commands.resume, "python -m train resume runs/stories --set schedule.steps=9000")
    resume.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    resume.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a value of the sections machine, schedule or run",
    )

    branch = _command(
        subparsers,
        commands.branch,
        "python -m train branch runs/stories --out runs/other --set schedule.steps=9000 --set data.source=better.txt",
    )
    branch.add_argument("run", type=Path, metavar="RUN", help="a run folder, which stays as it is")
    branch.add_argument("--out", type=Path, required=True, help="the run folder to make")
    branch.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a value of the sections machine, schedule, run, data or optimizer",
    )

    for command in (resume, branch):
        command.add_argument(
            "--from-step",
            type=_not_negative,
            metavar="STEP",
            help="the saved state to continue from (default: the last to which the old and the new schedule lead)",
        )

    for command in (run, resume, branch):
        command.add_argument("--stop-at", type=_positive, metavar="STEP", help="stop after this step, saved")
        command.add_argument(
            "--processes", type=_positive, default=1, help="one per GPU of this machine (default %(default)s)"
        )

    tokenize = _command(subparsers, commands.tokenize, "python -m train tokenize my.toml --out tokens/my --workers 8")
    tokenize.add_argument("recipe", metavar="RECIPE", help="a TOML file, or the name of a recipe in train/recipes")
    tokenize.add_argument("--out", type=Path, required=True, help="the folder to make, or to complete")
    tokenize.add_argument("--workers", type=_positive, default=1, help="processes (default %(default)s)")
    tokenize.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a recipe's value"
    )

    tokenizer = _command(
        subparsers, commands.tokenizer, "python -m train tokenizer book.txt --out tokenizers/book --vocab-size 4096"
    )
    tokenizer.add_argument(
        "source",
        metavar="SOURCE",
        nargs="+",
        help="files of text, JSON, CSV or Parquet, `stories`, or a recipe's TOML file",
    )
    tokenizer.add_argument("--field", help="of files with fields (default: text)")
    tokenizer.add_argument("--out", type=Path, required=True, help="the folder for tokenizer.json and its side files")
    tokenizer.add_argument("--vocab-size", type=_positive, default=2048, help="tokens at most (default %(default)s)")
    tokenizer.add_argument(
        "--max-length", type=_positive, default=256, help="the model's context (default %(default)s)"
    )
    tokenizer.add_argument("--documents", type=_positive, default=10_000, help="of `stories` (default %(default)s)")
    tokenizer.add_argument("--seed", type=int, default=0, help="of `stories` (default %(default)s)")

    plot = _command(subparsers, commands.plot, "python -m train plot runs/a runs/b --out curves.png")
    plot.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run folder")
    plot.add_argument("--out", type=Path, required=True, help="the PNG to write")

    evaluate = _command(
        subparsers,
        commands.evaluate,
        "python -m train evaluate runs/a/checkpoint bundles/a --precision fp32,int8",
    )
    evaluate.add_argument(
        "models", metavar="CHECKPOINT|BUNDLE", nargs="+", help="the others are compared with the first, item by item"
    )
    evaluate.add_argument(
        "--precision", type=_names, default=[], metavar="NAMES", help="of bundles (default: their default)"
    )
    evaluate.add_argument(
        "--tasks", type=_names, default=[], metavar="NAMES", help="ours or lm-eval's (default: all of ours)"
    )
    evaluate.add_argument("--limit", type=_positive, help="the most items of a task")
    evaluate.add_argument("--chat", action="store_true", help="ask by the chat template")

    stories = _command(subparsers, commands.stories, "python -m train stories --count 3 --seed 7")
    stories.add_argument("--count", type=_positive, default=1, help="how many (default %(default)s)")
    stories.add_argument("--seed", type=int, default=0, help="which ones (default %(default)s)")
    return parser


def _command(subparsers: argparse._SubParsersAction, function: Callable, example: str) -> argparse.ArgumentParser:  # type: ignore[type-arg]
    summary = (function.__doc__ or "").rstrip(".")
    parser: argparse.ArgumentParser = subparsers.add_parser(
        function.__name__, help=summary, description=f"{summary}.", epilog=f"example: {example}"
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as one JSON object")
    parser.set_defaults(function=function)
    return parser


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _not_negative(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, not {number}")
    return number


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: `run_to_exit_code`'s, or 128 + the signal that stopped a run."""
    arguments = build_parser().parse_args(argv)
    if getattr(arguments, "processes", 1) > 1 and LAUNCHED not in os.environ:
        command_line = [sys.executable, "-m", "train", *(sys.argv[1:] if argv is None else argv)]
        return launch(command_line, arguments.processes)
    heed_launcher()

    code = 0

    def command() -> None:
        nonlocal code
        try:
            code = arguments.function(arguments)
        except SmolTextError:
            if is_follower():
                # Rank 0 says the same, and its end ends this process. What only this one has to say is said later.
                time.sleep(FOLLOWER_WAIT_SECONDS)
            raise

    return run_to_exit_code(command) or code


if __name__ == "__main__":
    sys.exit(main())
