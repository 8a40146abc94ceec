"""The commands of `python -m train`. Each imports what it needs, so that `--help` loads no torch."""

from __future__ import annotations

import json
import signal
import sys
import time
from argparse import Namespace
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.data.config import DataSection, TokenizerSection
    from train.run.run import Run


def run(arguments: Namespace) -> int:
    """Train from a recipe."""
    from train.config import read_recipe
    from train.run.folder import RunFolder
    from train.setup import start_run

    recipe = read_recipe(arguments.recipe, arguments.set)
    return _train(start_run(recipe, RunFolder(arguments.out), overwrite=arguments.overwrite), arguments)


def resume(arguments: Namespace) -> int:
    """Continue a run that was stopped, or extend one by another schedule."""
    from train.resume import resume_run
    from train.run.folder import RunFolder

    return _train(resume_run(RunFolder(arguments.run), arguments.set, from_step=arguments.from_step), arguments)


def branch(arguments: Namespace) -> int:
    """Start a run from a state of another, with another schedule, optimizer or data."""
    from train.resume import branch_run
    from train.run.folder import RunFolder

    source, folder = RunFolder(arguments.run), RunFolder(arguments.out)
    return _train(branch_run(source, folder, arguments.set, from_step=arguments.from_step), arguments)


def tokenize(arguments: Namespace) -> int:
    """Tokenize a recipe's sources into shards."""
    from train.config import read_recipe
    from train.data.shards import TokenFolder
    from train.data.streams import Skipped
    from train.setup import make_tokenizer

    recipe = read_recipe(arguments.recipe, [*arguments.set, f"data.tokens={json.dumps(str(arguments.out))}"])
    folder = TokenFolder(arguments.out)
    folder.make(recipe.data, make_tokenizer(recipe), recipe.run.seed, workers=arguments.workers)
    sources = [
        {key: source[key] for key in ("name", "documents", "train_tokens", "skipped")}
        for source in folder.index()["sources"]
    ]
    for source in sources:
        _say(f"{source['name']}: {source['documents']:,} documents, {source['train_tokens']:,} tokens to train on")
        if source["skipped"]["count"]:
            _say(f"warning: {source['name']}: {Skipped(**source['skipped'])}")
    _say(f"train on them with: --set data.tokens={folder.path}")
    if arguments.json:
        _print_json({"folder": str(folder.path), "sources": sources})
    return 0


def tokenizer(arguments: Namespace) -> int:
    """Train a tokenizer."""
    from train.data.corpus import tokenizer_texts
    from train.data.tokenizer import CorpusTokenizer, train_tokenizer

    data, section = _tokenizer_recipe(arguments)
    trained = train_tokenizer(tokenizer_texts(data, arguments.seed), section.vocab_size)
    files = CorpusTokenizer(trained).save(arguments.out, max_length=arguments.max_length)
    _say(f"wrote a tokenizer of {trained.get_vocab_size()} tokens to {arguments.out}")
    if arguments.json:
        _print_json({"vocab_size": trained.get_vocab_size(), "files": list(map(str, files))})
    return 0


def _tokenizer_recipe(arguments: Namespace) -> tuple[DataSection, TokenizerSection]:
    """The sections of a recipe that the command's arguments stand for."""
    from train.config import read_recipe
    from train.data.config import DataSection, SourceSection, TokenizerSection

    section = TokenizerSection(vocab_size=arguments.vocab_size)
    if arguments.source[0].endswith(".toml"):
        return read_recipe(arguments.source[0]).data, section
    sources = tuple(SourceSection(path=path, field=arguments.field) for path in arguments.source)
    return DataSection(sources=sources, documents=arguments.documents), section


def plot(arguments: Namespace) -> int:
    """Draw loss curves."""
    from train.run.plot import plot_runs

    plot_runs(arguments.runs, arguments.out)
    _say(f"wrote {arguments.out}")
    if arguments.json:
        _print_json({"file": str(arguments.out)})
    return 0


def evaluate(arguments: Namespace) -> int:
    """Ask models the tasks of lm-evaluation-harness."""
    from train.harness.evaluation import evaluate as evaluate_models
    from train.harness.evaluation import table
    from train.harness.scorers import open_scorers

    scorers = (one for name in arguments.models for one in open_scorers(name, arguments.precision))
    results = evaluate_models(scorers, arguments.tasks, limit=arguments.limit, chat=arguments.chat)
    if arguments.json:
        _print_json({"results": [result.to_dict() for result in results]})
    else:
        print(table(results))
    return 0


def stories(arguments: Namespace) -> int:
    """Print stories of the built-in corpus."""
    from train.data.stories import stories as all_stories
    from train.data.stories import true_entropy

    told = list(islice(all_stories(arguments.seed), arguments.count))
    if arguments.json:
        _print_json({"stories": told, "true_entropy_nats_per_story": true_entropy()})
    else:
        print("\n\n".join(told))
    return 0


def _train(run: Run, arguments: Namespace) -> int:
    """Train, draw the curve and report the outcome. Only rank 0 prints; returns the exit code."""
    from model.parameters import parameter_counts
    from train.distributed.ranks import leave_ranks
    from train.loop import train
    from train.precision import choose_precision
    from train.run.metrics import read_metrics
    from train.run.plot import plot_runs
    from train.run.record import device_name

    folder, first = run.folder, run.ranks.is_first
    parameters = parameter_counts(run.model.config)["total"]
    if first:
        stream = " and a stream" if run.corpus.has_streams else ""
        _say(f"{parameters:,} parameters, {run.corpus.train_tokens:,} tokens{stream} to train on, in {folder.path}")
        precision = choose_precision(run.recipe.machine.precision, run.ranks.device)
        _say(f"matrix products on {device_name(run.ranks.device)} in {precision}")
    started = time.perf_counter()
    outcome = train(run, stop_at=arguments.stop_at)
    leave_ranks()
    code = 128 + signal.Signals[outcome["stopped_by"]] if outcome["stopped_by"] else 0
    if not first:
        return code
    if folder.metrics.stat().st_size:
        plot_runs([folder.path], folder.picture)
    summary: dict[str, Any] = {
        **outcome,
        "parameters": parameters,
        "train_tokens": sum(line["tokens"] for line in read_metrics(folder.metrics)),
        "seconds": round(time.perf_counter() - started, 2),
        "run": str(folder.path),
        "checkpoint": str(folder.checkpoint),
    }
    if not outcome["finished"]:
        _say(f"stopped at step {run.step}; continue with: python -m train resume {folder.path}")
    else:
        _say(f"{summary['seconds']:.0f} s; the model is {folder.checkpoint}, its loss curve {folder.picture}")
    if arguments.json:
        _print_json(summary)
    return code


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False))
