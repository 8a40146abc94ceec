"""`python -m benchmarks`: the speed of several engines as ratios, measured in pairs.

One process an engine, each in an environment of its own, all started at once and then asked in turn: a machine whose
speed drifts by the minute drifts for all of them. Each round gives one ratio to the first engine; the median of the
rounds is printed, and the interval in which it lies at 95 %. A figure alone means little on a machine that others
share, a ratio does.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import Machine, this_machine
from benchmarks.tables import Rates, markdown_table, replace_section, text_table
from benchmarks.worker import Worker
from benchmarks.workloads import WORKLOADS
from runtime.evaluation.bandwidth import read_bandwidth

EPILOG = """\
An ENGINE is LABEL=KIND:PYTHON:MODEL[:ARGUMENT]: how to call it, its kind (benchmarks/engines/run_KIND.py), the Python
of the environment that has it ("-" for this one), its model, and for ours the precision. FILE.toml names engines of
several tables, each in a table of its own (see benchmarks/peers.toml).

examples:
  python -m benchmarks int8=smoltext:-:bundles/smollm2:int8 genai=genai:peers/genai/bin/python:peers/smollm2-int8
  python -m benchmarks benchmarks/peers.toml --write docs/benchmarks.md
"""

# Label -> specification, the first one what the others are divided by.
Engines = dict[str, str]


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The engines and how often to ask them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Ratios of speed between engines, measured in pairs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "engines", nargs="+", metavar="ENGINE|FILE.toml", help="the first of a table is what the others are divided by"
    )
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="default 2")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="default 7")
    parser.add_argument("--json", action="store_true", help="print every round's tokens per second as JSON")
    parser.add_argument(
        "--write", type=Path, metavar="FILE.md", help="put the tables there too, in place of this kind of CPU's"
    )
    return parser.parse_args(arguments)


def read_tables(texts: Sequence[str]) -> dict[str, Engines]:
    """Title -> engines, from specifications or from a TOML file.

    Raises:
        ValueError: neither, or a file that is not TOML of tables of text.
        OSError: the file cannot be read.
    """
    if len(texts) == 1 and texts[0].endswith(".toml"):
        tables = tomllib.loads(Path(texts[0]).read_text(encoding="utf-8"))
        for title, engines in tables.items():
            if not isinstance(engines, dict) or not all(isinstance(text, str) for text in engines.values()):
                raise ValueError(f'{texts[0]}: [{title}] must hold lines of LABEL = "KIND:PYTHON:MODEL[:ARGUMENT]"')
        return tables
    return {"": dict(text.partition("=")[::2] for text in texts)}


def measure(workers: Mapping[str, Worker], rounds: int, threads: int) -> tuple[Rates, list[float]]:
    """Tokens per second of each round, and the memory's bytes per second between them.

    A first round, which warms up, is not counted.
    """
    rates: dict[str, dict[str, list[float]]] = {w.name: {label: [] for label in workers} for w in WORKLOADS}
    bandwidths = []
    for number in range(rounds + 1):
        bandwidths.append(read_bandwidth(threads))
        for workload in WORKLOADS:
            for label, worker in workers.items():
                seconds = worker.ask(workload.prompt_tokens, workload.new_tokens)[workload.timed]
                if number:
                    rates[workload.name][label].append(workload.rate(seconds))
        print(f"round {number} of {rounds}: memory {bandwidths[-1] / 1e9:.1f} GB/s", file=sys.stderr)
    return rates, bandwidths


def run_table(engines: Engines, rounds: int, threads: int) -> dict[str, Any]:
    """Start the engines, measure, and end them in any case."""
    workers: dict[str, Worker] = {}
    try:
        for label, specification in engines.items():
            workers[label] = Worker(specification, threads)
        rates, bandwidths = measure(workers, rounds, threads)
        peak_bytes = {label: worker.peak_bytes() for label, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()
    return {"rates": rates, "peak_bytes": peak_bytes, "memory_bytes_per_second": bandwidths}


def to_markdown(results: Mapping[str, dict[str, Any]], machine: Machine, rounds: int) -> str:
    """The tables of one machine as a section."""
    bandwidths = [value for result in results.values() for value in result["memory_bytes_per_second"]]
    parts = [f"{machine.line(bandwidths)}; medians of {rounds} rounds and their intervals at 95 %."]
    parts += [markdown_table(title, result["rates"], result["peak_bytes"]) for title, result in results.items()]
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every table, print it, and write it where asked."""
    args = parse_args(arguments)
    if args.rounds < 2:
        print("error: --rounds must be at least 2: one round has no spread", file=sys.stderr)
        return 2
    machine = this_machine(args.threads)
    results = {}
    try:
        for title, engines in read_tables(args.engines).items():
            results[title] = result = run_table(engines, args.rounds, args.threads)
            if not args.json:
                print(machine.line(result["memory_bytes_per_second"]))
                print(title, text_table(result["rates"], result["peak_bytes"]), sep="\n" if title else "")
        if args.write is not None:
            replace_section(args.write, machine.kind, to_markdown(results, machine, args.rounds))
    except (RuntimeError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps({"machine": vars(machine), "tables": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
