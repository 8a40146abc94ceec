"""What prompt lookup is worth where a model copies, and what it costs where there is nothing to copy, in pairs.

    python -m benchmarks.copying passages ../shared/data/corpora --out runs/passages
    python -m train run benchmarks/copying-short.toml --out runs/copying-short      # 9 minutes on two cores
    python -m train run benchmarks/copying-long.toml --out runs/copying             # 11
    python -m export run runs/copying/checkpoint --out bundles/copying --precisions fp32,int8-kv8
    python -m benchmarks.copying measure bundles/copying ../shared/data/corpora

Models that can quote are large; so a small one learns just that, from passages that are followed by themselves. Then it
is given passages from the end of each text, which it has not seen: once to copy them, with the likeliest tokens, and
once to go on from them as it likes, at temperature 1. Both ways of decoding run in turn on one session, and must give
the same tokens.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.files import write_text
from runtime import Bundle, DecoderSession, SamplingOptions
from runtime.cli.command_line import run_to_exit_code
from runtime.errors import OptionError
from runtime.generation.generate import generate_step
from runtime.sampling.sampler import make_sampler
from runtime.text.tokenizer import Tokenizer

HELD_OUT = 0.1  # the end of each text is for measuring
SEPARATOR = "\n\n"
MEASURED_WORDS, BEGINNING_TOKENS, ROUNDS = 100, 4, 4


def short_passages(texts: list[list[str]], documents: int = 40_000) -> Iterator[str]:
    """Documents of one passage of a few words several times; one in eight is longer, and comes twice.

    Three in four passages are words in any order, which nothing but copying can foretell.

    Args:
        texts: words, a list a text.
        documents: how many.
    """
    draw = random.Random(0)  # noqa: S311 - no secret
    for number in range(documents):
        words = draw.choice(texts)
        length, times = (draw.randint(20, 85), 2) if number % 8 == 0 else (draw.randint(2, 12), 0)
        start = draw.randrange(len(words) - length)
        passage = words[start : start + length] if number % 4 == 0 else draw.choices(words, k=length)
        yield SEPARATOR.join([" ".join(passage)] * (times or max(2, 40 // length)))


def long_passages(texts: list[list[str]], documents: int = 24_000) -> Iterator[str]:
    """Documents of one passage of up to 110 words at least twice; in one of four, a few words recur all the time."""
    draw = random.Random(1)  # noqa: S311 - no secret
    for number in range(documents):
        words, length = draw.choice(texts), draw.randint(10, 110)
        start = draw.randrange(len(words) - length)
        passage = words[start : start + length]
        if number % 4 == 0:
            passage = draw.choices(passage[: max(8, length // 3)], k=length)
        yield SEPARATOR.join([" ".join(passage)] * max(2, 90 // length))


@dataclass(frozen=True)
class Pair:
    """One prompt, continued in both ways.

    Attributes:
        plain_seconds: without prompt lookup, the median of the rounds.
        lookup_seconds: with it.
        same: whether the tokens are the same.
        copied: the share of tokens that are the passage's.
    """

    plain_seconds: float
    lookup_seconds: float
    same: bool
    copied: float

    @property
    def ratio(self) -> float:
        """How many times as fast it is with prompt lookup."""
        return self.plain_seconds / self.lookup_seconds


def measure(
    session: DecoderSession,
    tokenizer: Tokenizer,
    words: list[str],
    *,
    copy: bool,
    count: int,
    words_each: int = MEASURED_WORDS,
) -> list[Pair]:
    """Continue passages, with and without prompt lookup in turn.

    Args:
        session: in which prompt lookup is admitted.
        tokenizer: of the same bundle.
        words: what passages are taken from.
        copy: begin the passage anew behind itself, and take the likeliest tokens; or go on freely, at temperature 1.
        count: prompts.
        words_each: of a passage.
    """
    pairs = []
    for number in range(count):
        start = number * (len(words) - words_each) // count
        passage = tokenizer.encode_prompt(" ".join(words[start : start + words_each]))
        again = tokenizer.encode_prompt(SEPARATOR + tokenizer.decode(passage), add_special_tokens=False)
        begun = len(again) - len(passage) + BEGINNING_TOKENS
        prompt = [*passage, *again[:begun]] if copy else passage
        expected = again[begun:]
        times: dict[bool, list[float]] = {False: [], True: []}
        outputs = {}
        for prompt_lookup in (False, True) * ROUNDS:
            seconds, outputs[prompt_lookup] = _timed(session, prompt, len(expected), copy, prompt_lookup)
            times[prompt_lookup].append(seconds)
        plain, quick = (statistics.median(seconds) for seconds in times.values())
        copied = sum(a == b for a, b in zip(outputs[True], expected, strict=True)) / len(expected)
        pairs.append(Pair(plain, quick, outputs[False] == outputs[True], copied))
    return pairs


def _timed(
    session: DecoderSession, prompt: list[int], new_tokens: int, greedy: bool, prompt_lookup: bool
) -> tuple[float, list[int]]:
    """Seconds from the first token to the last, and the tokens."""
    sampler = make_sampler(SamplingOptions(temperature=0 if greedy else 1, top_p=1, seed=0))
    steps = generate_step(
        session, prompt, max_new_tokens=new_tokens, sampler=sampler, prompt_lookup=prompt_lookup, stop_token_ids=()
    )
    token_ids = [next(steps).token_id]
    started = time.perf_counter()
    token_ids += [token.token_id for token in steps]
    return time.perf_counter() - started, token_ids


def main(argv: list[str] | None = None) -> int:
    """Write passages to learn from, or measure. Returns the exit code."""
    arguments = parse_args(argv)
    return run_to_exit_code(lambda: _write(arguments) if arguments.command == "passages" else _measure(arguments))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command and its options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.copying",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("passages", help="write documents to train on")
    write.add_argument("texts", type=Path, metavar="FOLDER", help="of *.txt")
    write.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    pairs = commands.add_parser("measure", help="time a bundle")
    pairs.add_argument("bundle", metavar="BUNDLE")
    pairs.add_argument("texts", type=Path, metavar="FOLDER", help="of *.txt")
    pairs.add_argument("--precision", default="int8-kv8")
    pairs.add_argument("--batch-invariant", action="store_true")
    pairs.add_argument("--threads", type=int, default=2)
    pairs.add_argument("--prompts", type=int, default=8, help="of each text (default %(default)s)")
    return parser.parse_args(argv)


def _split_texts(folder: Path) -> dict[str, tuple[list[str], list[str]]]:
    """The words of each text: those to learn from, and those to measure on."""
    texts = {path.name: path.read_text(encoding="utf-8").split() for path in sorted(folder.glob("*.txt"))}
    if not texts:
        raise OptionError(f"{folder} holds no *.txt")
    ends = {name: len(words) - int(HELD_OUT * len(words)) for name, words in texts.items()}
    return {name: (words[: ends[name]], words[ends[name] :]) for name, words in texts.items()}


def _write(arguments: argparse.Namespace) -> None:
    learned = [words for words, _ in _split_texts(arguments.texts).values()]
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, documents in (("short", short_passages(learned)), ("long", long_passages(learned))):
        write_text(arguments.out / f"{name}.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in documents))


def _measure(arguments: argparse.Namespace) -> None:
    texts = _split_texts(arguments.texts)
    bundle = Bundle.open(arguments.bundle)
    options = {"threads": arguments.threads, "batch_invariant": arguments.batch_invariant}
    session = DecoderSession(bundle, arguments.precision, **options)
    session.check_prompt_lookup()
    tokenizer = Tokenizer(bundle)
    print(f"{'':<30}{'with lookup':>22}  {'same tokens':>11}  {'copied':>6}")
    for copy in (True, False):
        kind, together = "copy" if copy else "free", []
        for name, (_, words) in texts.items():
            found = measure(session, tokenizer, words, copy=copy, count=arguments.prompts)
            together += found
            print(_line(f"{kind} {name}", found), flush=True)
        print(_line(f"{kind}, all together", together), flush=True)


def _line(name: str, pairs: list[Pair]) -> str:
    ratios = sorted(pair.ratio for pair in pairs)
    same, copied = sum(pair.same for pair in pairs), statistics.mean(pair.copied for pair in pairs)
    total = sum(pair.plain_seconds for pair in pairs) / sum(pair.lookup_seconds for pair in pairs)
    spread = f"{total:.2f} x ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return f"{name:<30}{spread:>22}  {same:>5} of {len(pairs):<3}  {copied:>6.0%}"


if __name__ == "__main__":
    sys.exit(main())
