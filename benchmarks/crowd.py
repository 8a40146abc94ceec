"""`python -m benchmarks.crowd`: many streams on one model: their throughput, their pauses, what a shared prefix saves.

    python -m benchmarks.crowd throughput BUNDLE --precision int8-kv8    # 1, 2, 4, 8 and 16 streams, in turns
    python -m benchmarks.crowd joining BUNDLE                            # four streams, and a prompt of 4,000 tokens
    python -m benchmarks.crowd prefix BUNDLE                             # a system prompt of 1,000 tokens, used again

Each figure is a ratio of what was measured in turns in one process: a machine that others share drifts by the minute.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from runtime import Bundle, DecoderSession, PromptCache, Request, Scheduler
from runtime.cli.command_line import run_to_exit_code
from runtime.engine.prompt_cache import exact_granularity
from runtime.language_model import MAX_PAUSE_STEPS

COUNTS = (1, 2, 4, 8, 16)
DEPTH, NEW_TOKENS = 16, 48
STREAMS, JOINING_TOKENS = 4, 4000
SETTLED_STEPS, USUAL_STEPS, PLAIN_STEPS = 10, 20, 1000
SYSTEM_TOKENS, QUESTION_TOKENS = 1000, 30


def random_ids(session: DecoderSession, count: int, seed: int) -> list[int]:
    """Tokens whose cost is that of any others."""
    return np.random.default_rng(seed).integers(3, session.shape.vocab_size, count).tolist()


def throughput(session: DecoderSession, arguments: argparse.Namespace) -> None:
    """Tokens per second of n streams that all decode, over those of one; and whether each says what it says alone."""
    alone = {seed: decode(session, [seed])[1][0] for seed in range(max(COUNTS))}
    rates: dict[int, list[float]] = {count: [] for count in COUNTS}
    is_same = dict.fromkeys(COUNTS, True)
    for _ in range(arguments.rounds):
        for count in COUNTS:
            seconds, texts = decode(session, range(count))
            rates[count].append(count * NEW_TOKENS / seconds)
            is_same[count] &= texts == [alone[seed] for seed in range(count)]
    print(f"{'streams':>7} {'tokens/s':>9}  ratio to one (middle half)  texts")
    for count in COUNTS:
        ratios = [rate / one for rate, one in zip(rates[count], rates[1], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        spread = f"{middle:.2f}  ({low:.2f} to {high:.2f})"
        same = "as alone" if is_same[count] else "others than alone"
        print(f"{count:>7} {statistics.median(rates[count]):>9,.1f}  {spread:<26}  {same}")


def decode(session: DecoderSession, seeds: Sequence[int]) -> tuple[float, list[list[int]]]:
    """Seconds in which every stream gets NEW_TOKENS tokens after its first two, and what they said."""
    scheduler = Scheduler(session)
    prompts = [random_ids(session, DEPTH, seed) for seed in seeds]
    sequences = [scheduler.add(Request(prompt, NEW_TOKENS + 2, stop_token_ids=())) for prompt in prompts]
    while min(len(sequence.token_ids) for sequence in sequences) < DEPTH + 2:
        scheduler.step()
    started = time.perf_counter()
    while scheduler.has_work:
        scheduler.step()
    return time.perf_counter() - started, [sequence.new_ids for sequence in sequences]


def joining(session: DecoderSession, arguments: argparse.Namespace) -> None:
    """How long streams wait for a token while a long prompt joins them, in steps as they are just before and after it.

    Streams grow while the prompt runs, so the usual step is drawn out between the two. The first row is what steps do
    that nothing joins: no wait can be steadier than they are on this machine.
    """
    print(f"{'prompt runs':<22} {'usual step':>18}  wait in usual steps: median, 95 %, 99 %, longest   joined after")
    ways = (("nothing joins", None), ("a whole chunk a step", 1e9), ("as the runtime does", MAX_PAUSE_STEPS))
    for name, pause in ways:
        steps, waits, seconds = [], [], []
        for _ in range(arguments.rounds):
            before, after, found, joined = join(session, pause)
            steps.append((before, after))
            waits += list(np.array(found) / np.linspace(before, after, len(found)))
            seconds.append(joined)
        cuts = ", ".join(f"{np.quantile(waits, share):.2f}" for share in (0.5, 0.95, 0.99, 1.0))
        before, after = 1e3 * np.median(steps, axis=0)
        print(f"{name:<22} {before:>5.1f} to {after:>5.1f} ms  {cuts:<49} {statistics.median(seconds):>8.1f} s")


def join(session: DecoderSession, pause: float | None) -> tuple[float, float, list[float], float]:
    """The usual step before and after, the waits between while a prompt runs, and how long it ran; None: no prompt."""
    scheduler = Scheduler(session, max_pause_steps=pause)
    context = session.shape.max_position_embeddings
    streams = [
        scheduler.add(Request(random_ids(session, DEPTH, seed), context - DEPTH, stop_token_ids=()))
        for seed in range(STREAMS)
    ]
    while len(streams[-1].new_ids) < SETTLED_STEPS:
        scheduler.step()
    before = statistics.median(_timed(scheduler.step) for _ in range(USUAL_STEPS))
    if pause is None:
        waits = [_timed(scheduler.step) for _ in range(PLAIN_STEPS)]
    else:
        newcomer = scheduler.add(
            Request(random_ids(session, min(JOINING_TOKENS, context - 40), 99), 32, stop_token_ids=())
        )
        waits = []
        while not newcomer.is_decoding:
            waits.append(_timed(scheduler.step))
        while newcomer.finish_reason is None:
            scheduler.step()
    after = statistics.median(_timed(scheduler.step) for _ in range(USUAL_STEPS))
    return before, after, waits, sum(waits)


def prefix(session: DecoderSession, arguments: argparse.Namespace) -> None:
    """Time to the first token of a question behind a system prompt that another chat has used, over that without it."""
    question = random_ids(session, QUESTION_TOKENS, 1)
    ratios, computed = [], []
    for number in range(arguments.rounds):
        system = random_ids(session, SYSTEM_TOKENS, 10 + number)
        prompts = PromptCache(session, 4, exact_granularity(session))
        scheduler = Scheduler(session, prompts=prompts, max_pause_steps=MAX_PAUSE_STEPS)
        _first_token(scheduler, [*system, *random_ids(session, QUESTION_TOKENS, 2)])
        without = _first_token(scheduler, question)
        behind = _first_token(scheduler, [*system, *question])
        ratios.append(behind / without)
        computed.append(_first_token(scheduler, random_ids(session, SYSTEM_TOKENS + QUESTION_TOKENS, 3)) / without)
    print(f"first token of a question of {QUESTION_TOKENS} tokens, over that without a system prompt")
    print(f"  behind {SYSTEM_TOKENS} tokens that another chat shares: {_spread(ratios)}")
    print(f"  behind {SYSTEM_TOKENS} new tokens:                      {_spread(computed)}")


def _first_token(scheduler: Scheduler, prompt: list[int]) -> float:
    sequence = scheduler.add(Request(prompt, 4, stop_token_ids=()))
    started = time.perf_counter()
    while not sequence.is_decoding:
        scheduler.step()
    seconds = time.perf_counter() - started
    while scheduler.has_work:
        scheduler.step()
    return seconds


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _spread(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} x ({low:.2f} to {high:.2f})"


COMMANDS = {"throughput": throughput, "joining": joining, "prefix": prefix}


def main(argv: list[str] | None = None) -> int:
    """Measure. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.crowd", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measure", choices=COMMANDS)
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("--precision", metavar="P", help="default: the bundle's")
    parser.add_argument("--threads", type=int, default=2, help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default %(default)s)")
    arguments = parser.parse_args(argv)

    def measure() -> None:
        bundle = Bundle.open(arguments.bundle)
        precision = arguments.precision or bundle.default_precision
        session = DecoderSession(bundle, precision, threads=arguments.threads)
        COMMANDS[arguments.measure](session, arguments)

    return run_to_exit_code(measure)


if __name__ == "__main__":
    sys.exit(main())
