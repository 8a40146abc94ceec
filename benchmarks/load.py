"""`python -m benchmarks.load`: a load of many users on OpenAI servers: throughput, time to first token, between tokens.

    python -m benchmarks.load ours=http://127.0.0.1:8000 llama=http://127.0.0.1:8080 --streams 8,16
    python -m benchmarks.load ours=http://127.0.0.1:8000 --rate 0.5,1,2 --requests 100 --json

With --rate, requests arrive at random times of a Poisson process, whatever the server does (an open loop: what waits is
counted as waiting). With --streams, so many run at any time, each followed by the next: the most that a server can do.
Servers take turns within a round, with the same requests, and ratios to the first are those of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.load_client import Outcome, Task, ask
from runtime.cli.command_line import run_to_exit_code
from runtime.errors import OptionError

WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend"
).split()
CUTS = (50, 95, 99)


@dataclass(frozen=True)
class Load:
    """How requests come: `rate` a second, or `streams` at a time."""

    rate: float | None = None
    streams: int | None = None

    def __str__(self) -> str:
        return f"{self.streams} streams" if self.rate is None else f"{self.rate:g}/s"


@dataclass(frozen=True)
class Run:
    """What a server did under a load.

    Attributes:
        server: its label.
        load: on it.
        outcomes: of the requests.
        seconds: from the first arrival to the last end.
    """

    server: str
    load: Load
    outcomes: list[Outcome]
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all requests over the time."""
        return sum(outcome.new_tokens for outcome in self.outcomes) / self.seconds

    def percentiles(self, name: str) -> list[float]:
        """Milliseconds at the CUTS: of "first" or "between" tokens, or the "whole" request. NaN where nothing came."""
        done = [outcome for outcome in self.outcomes if outcome.error is None]
        if name == "between":
            values = [gap for outcome in done for gap in outcome.gaps_seconds]
        else:
            values = [getattr(outcome, f"{name}_seconds") for outcome in done]
        return [1e3 * float(np.percentile(values, cut)) if values else float("nan") for cut in CUTS]

    def to_dict(self) -> dict[str, Any]:
        """The run as JSON values."""
        errors = [outcome.error for outcome in self.outcomes if outcome.error is not None]
        record: dict[str, Any] = {
            "server": self.server,
            "rate": self.load.rate,
            "streams": self.load.streams,
            "requests": len(self.outcomes),
            "errors": {error: errors.count(error) for error in sorted(set(errors))},
            "seconds": self.seconds,
            "prompt_tokens": sum(outcome.prompt_tokens for outcome in self.outcomes),
            "new_tokens": sum(outcome.new_tokens for outcome in self.outcomes),
            "tokens_per_second": self.tokens_per_second,
        }
        for name, key in (("first", "time_to_first_token_ms"), ("between", "inter_token_ms"), ("whole", "request_ms")):
            found = zip(CUTS, self.percentiles(name), strict=True)
            record[key] = {f"p{cut}": None if np.isnan(value) else value for cut, value in found}
        return record


def make_tasks(count: int, prompt_words: Sequence[int], new_tokens: Sequence[int], seed: int) -> list[Task]:
    """Requests of mixed lengths, no two of which begin alike."""
    draw = np.random.default_rng(seed)
    return [
        Task(" ".join(draw.choice(WORDS, int(draw.choice(prompt_words)))), int(draw.choice(new_tokens)))
        for _ in range(count)
    ]


async def run(label: str, url: str, load: Load, tasks: Sequence[Task], *, key: str | None, seed: int) -> Run:
    """Put a load on a server."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    if load.rate is not None:
        arrivals = started + np.cumsum(np.random.default_rng(seed).exponential(1 / load.rate, len(tasks)))

        async def arrive(task: Task, due_seconds: float) -> Outcome:
            await asyncio.sleep(due_seconds - loop.time())
            return await ask(url, task, key=key, due_seconds=due_seconds)

        due = zip(tasks, arrivals, strict=True)
        outcomes = await asyncio.gather(*(arrive(task, float(seconds)) for task, seconds in due))
    else:
        outcomes, waiting = [], iter(tasks)

        async def stream() -> None:
            for task in waiting:
                outcomes.append(await ask(url, task, key=key, due_seconds=loop.time()))

        await asyncio.gather(*(stream() for _ in range(load.streams or 1)))
    return Run(label, load, list(outcomes), loop.time() - started)


def table(runs: Sequence[Run]) -> str:
    """The medians over the rounds, and the throughput as a ratio to the first server's, round by round."""
    cuts = " ".join(f"{f'p{cut}':>7}" for cut in CUTS)
    head = f"{'load':<12} {'server':<10} {'errors':>6} {'tokens/s':>9}  {'ratio (middle half)':<21} "
    lines = [f"{head} first token, ms: {cuts}   between tokens, ms: {cuts}"]
    loads, servers = dict.fromkeys(run.load for run in runs), list(dict.fromkeys(run.server for run in runs))
    for load in loads:
        of = {server: [run for run in runs if run.load == load and run.server == server] for server in servers}
        for server, rounds in of.items():
            ratios = [a.tokens_per_second / b.tokens_per_second for a, b in zip(rounds, of[servers[0]], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            rate = statistics.median(run.tokens_per_second for run in rounds)
            errors = sum(outcome.error is not None for run in rounds for outcome in run.outcomes)
            first, between = (
                " ".join(f"{value:>7,.0f}" for value in np.median([run.percentiles(name) for run in rounds], axis=0))
                for name in ("first", "between")
            )
            ratio = f"{middle:.2f}  ({low:.2f} to {high:.2f})"
            figures = f"{load!s:<12} {server:<10} {errors:>6} {rate:>9,.1f}  {ratio:<21} "
            lines.append(f"{figures} {'':<16} {first}   {'':<19} {between}")
    return "\n".join(lines)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Servers, loads and requests."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("servers", nargs="+", metavar="LABEL=URL", help="the first is what others are divided by")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--rate", type=_numbers, default=[], metavar="R,R", help="arrivals a second, a run for each")
    how.add_argument("--streams", type=_numbers, default=[], metavar="N,N", help="requests at any time")
    parser.add_argument("--requests", type=int, default=64, metavar="N", help="of a run (default %(default)s)")
    parser.add_argument("--prompt-words", type=_numbers, default=[16, 64, 256], metavar="N,N", help="16,64,256")
    parser.add_argument("--new-tokens", type=_numbers, default=[32, 64, 128], metavar="N,N", help="32,64,128")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of lengths and arrivals")
    parser.add_argument("--api-key", metavar="KEY")
    parser.add_argument("--json", action="store_true", help="a list of all runs")
    return parser.parse_args(arguments)


def measure(args: argparse.Namespace) -> list[Run]:
    """All runs. A first request to each server, which warms up, is not counted."""
    servers = dict(_server(text) for text in args.servers)
    loads = [Load(rate=rate) for rate in args.rate] + [Load(streams=int(count)) for count in args.streams]
    runs = []
    for url in servers.values():
        warm = asyncio.run(run("", url, Load(streams=1), make_tasks(1, [8], [8], 1), key=args.api_key, seed=0))
        if warm.outcomes[0].error is not None:
            raise OptionError(f"{url} does not answer: {warm.outcomes[0].error}")
    for number in range(args.rounds):
        for place, load in enumerate(loads):
            # The same work for each server, and never the same again: its prompts would be in a cache.
            seed = args.seed + number * len(loads) + place
            tasks = make_tasks(args.requests, args.prompt_words, args.new_tokens, seed)
            for label, url in servers.items():
                runs.append(asyncio.run(run(label, url, load, tasks, key=args.api_key, seed=seed)))
                print(
                    f"round {number + 1}, {load}, {label}: {runs[-1].tokens_per_second:.1f} tokens/s", file=sys.stderr
                )
    return runs


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers above 0, such as 1,2.5")
    return numbers


def _server(text: str) -> tuple[str, str]:
    label, _, url = text.partition("=")
    if not url.startswith("http://"):
        raise OptionError(f"{text!r} is not LABEL=http://HOST:PORT")
    return label, url.rstrip("/")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Returns the exit code."""
    args = parse_args(arguments)

    def command() -> None:
        runs = measure(args)
        print(json.dumps([run.to_dict() for run in runs]) if args.json else table(runs))

    return run_to_exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
