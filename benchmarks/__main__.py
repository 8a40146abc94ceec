"""`python -m benchmarks`: the speed of several engines as ratios, measured in pairs.

One process an engine, each in an environment of its own, all started at once and then asked in turn: a machine whose
speed drifts by the minute drifts for all of them. Each round gives one ratio to the first engine; the median of the
rounds is printed, and their middle half. A figure alone means little on a machine that others share, a ratio does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.worker import Worker

EPILOG = """\
An ENGINE is LABEL=KIND:PYTHON:MODEL[:ARGUMENT]: how to call it, its kind (benchmarks/engines/run_KIND.py), the Python
of the environment that has it ("-" for this one), its model, and for ours the precision.

example:
  python -m benchmarks int8=smoltext:-:bundles/smollm2:int8 genai=genai:peers/genai/bin/python:peers/smollm2-int8
"""


@dataclass(frozen=True)
class Workload:
    """What is timed: a prefill of `prompt_tokens`, then decodes behind it."""

    name: str
    prompt_tokens: int
    new_tokens: int
    timed: str  # "prefill_seconds" or "decode_seconds"

    def rate(self, seconds: float) -> float:
        """Tokens per second."""
        return (self.prompt_tokens if self.timed == "prefill_seconds" else self.new_tokens) / seconds


WORKLOADS = (
    Workload("prefill 512", 512, 1, "prefill_seconds"),
    Workload("decode @16", 16, 64, "decode_seconds"),
    Workload("decode @1024", 1024, 64, "decode_seconds"),
)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The engines and how often to ask them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Ratios of speed between engines, measured in pairs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("engines", nargs="+", metavar="ENGINE", help="the first is what the others are divided by")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="default 2")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="default 7")
    parser.add_argument("--json", action="store_true", help="print every round's tokens per second as JSON")
    return parser.parse_args(arguments)


def measure(workers: dict[str, Worker], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Workload -> engine -> tokens per second of each round. A first round, which warms up, is not counted."""
    rates: dict[str, dict[str, list[float]]] = {w.name: {label: [] for label in workers} for w in WORKLOADS}
    for number in range(rounds + 1):
        for workload in WORKLOADS:
            for label, worker in workers.items():
                seconds = worker.ask(workload.prompt_tokens, workload.new_tokens)[workload.timed]
                if number:
                    rates[workload.name][label].append(workload.rate(seconds))
        print(f"round {number} of {rounds}", file=sys.stderr)
    return rates


def table(rates: dict[str, dict[str, list[float]]], peak_bytes: dict[str, int]) -> str:
    """Median tokens per second, and the ratio to the first engine with its quartiles."""
    lines = [f"{'':<14} {'engine':<14} {'tokens/s':>9}   ratio (middle half)"]
    for workload, engines in rates.items():
        base = next(iter(engines.values()))
        for label, figures in engines.items():
            low, middle, high = statistics.quantiles([a / b for a, b in zip(figures, base, strict=True)], n=4)
            ratio = f"{middle:.2f}  ({low:.2f} to {high:.2f})"
            lines.append(f"{workload:<14} {label:<14} {statistics.median(figures):>9,.0f}   {ratio}")
    lines += [f"{'peak memory':<14} {label:<14} {size / 1e6:>9,.0f}   MB" for label, size in peak_bytes.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and end the engines in any case."""
    args = parse_args(arguments)
    if args.rounds < 2:
        print("error: --rounds must be at least 2: one round has no spread", file=sys.stderr)
        return 2
    workers: dict[str, Worker] = {}
    try:
        for text in args.engines:
            label, _, specification = text.partition("=")
            workers[label] = Worker(specification, args.threads)
        rates = measure(workers, args.rounds)
        peak_bytes = {label: worker.peak_bytes() for label, worker in workers.items()}
    except (RuntimeError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        for worker in workers.values():
            worker.close()
    print(json.dumps({"rates": rates, "peak_bytes": peak_bytes}) if args.json else table(rates, peak_bytes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
