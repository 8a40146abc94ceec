"""What prompt lookup is worth where a model copies, and what it costs where there is nothing to copy, in pairs.

    python -m benchmarks.copying passages ../shared/data/corpora --out runs/passages.jsonl
    python -m train run benchmarks/copying.toml --out runs/copying
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
from runtime.generate import generate_step
from runtime.sampling import make_sampler
from runtime.tokenizer import Tokenizer

HELD_OUT = 0.1  # the end of each text is for measuring
SEPARATOR = "\n\n"
DOCUMENTS = 30_000
MEASURED_WORDS, BEGINNING_TOKENS, ROUNDS = 100, 4, 4


def passages(texts: list[list[str]], documents: int = DOCUMENTS, seed: int = 0) -> Iterator[str]:
    """Documents of one passage, several times.

    Half of the passages are words in any order, which nothing but copying can foretell. Three in four are short and
    come often, since that is how copying is learned; the others teach it to reach far.

    Args:
        texts: words, a list a text.
        documents: how many.
        seed: of the choice.
    """
    draw = random.Random(seed)  # noqa: S311 - no secret
    for number in range(documents):
        words = draw.choice(texts)
        length, times = (draw.randint(30, 85), 2) if number % 4 == 0 else (draw.randint(4, 24), 0)
        start = draw.randrange(len(words) - length)
        shuffled = draw.random() < 0.5
        passage = draw.choices(words, k=length) if shuffled else words[start : start + length]
        yield SEPARATOR.join([" ".join(passage)] * (times or max(2, 120 // length)))


@dataclass(frozen=True)
class Pair:
    """One prompt, continued in both ways.

    Attributes:
        ratio: how many times as fast it is with prompt lookup.
        same: whether the tokens are the same.
        copied: the share of tokens that are the passage's.
    """

    ratio: float
    same: bool
    copied: float


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
        session: reproducible.
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
        ratio = statistics.median(plain / quick for plain, quick in zip(*times.values(), strict=True))
        copied = sum(a == b for a, b in zip(outputs[True], expected, strict=True)) / len(expected)
        pairs.append(Pair(ratio, outputs[False] == outputs[True], copied))
    return pairs


def _timed(
    session: DecoderSession, prompt: list[int], new_tokens: int, greedy: bool, prompt_lookup: bool
) -> tuple[float, list[int]]:
    """Seconds from the first token to the last, and the tokens."""
    sampler = make_sampler(SamplingOptions(temperature=0 if greedy else 1, top_p=1, seed=0))
    steps = generate_step(session, prompt, max_new_tokens=new_tokens, sampler=sampler, prompt_lookup=prompt_lookup)
    token_ids = [next(steps)]
    started = time.perf_counter()
    token_ids += steps
    return time.perf_counter() - started, token_ids


def main(argv: list[str] | None = None) -> int:
    """Write passages to learn from, or measure."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.copying",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("passages", help="write documents to train on")
    write.add_argument("texts", type=Path, metavar="FOLDER", help="of *.txt")
    write.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl")
    pairs = commands.add_parser("measure", help="time a bundle")
    pairs.add_argument("bundle", metavar="BUNDLE")
    pairs.add_argument("texts", type=Path, metavar="FOLDER", help="of *.txt")
    pairs.add_argument("--precision", default="int8-kv8")
    pairs.add_argument("--steady", action="store_true")
    pairs.add_argument("--threads", type=int, default=2)
    pairs.add_argument("--prompts", type=int, default=8, help="of each text (default %(default)s)")
    arguments = parser.parse_args(argv)
    texts = {path.name: path.read_text(encoding="utf-8").split() for path in sorted(arguments.texts.glob("*.txt"))}
    ends = {name: len(words) - int(HELD_OUT * len(words)) for name, words in texts.items()}
    if arguments.command == "passages":
        documents = passages([words[: ends[name]] for name, words in texts.items()])
        write_text(arguments.out, "".join(json.dumps({"text": text}) + "\n" for text in documents))
        return 0
    bundle = Bundle.open(arguments.bundle)
    session = DecoderSession(bundle, arguments.precision, threads=arguments.threads, steady=arguments.steady)
    tokenizer = Tokenizer(bundle)
    print(f"{'':<30}{'with lookup':>22}  {'same tokens':>11}  {'copied':>6}")
    for name, words in texts.items():
        for copy in (True, False):
            found = measure(session, tokenizer, words[ends[name] :], copy=copy, count=arguments.prompts)
            print(_line(f"{'copy' if copy else 'free'} {name}", found), flush=True)
    return 0


def _line(name: str, pairs: list[Pair]) -> str:
    ratios = sorted(pair.ratio for pair in pairs)
    same, copied = sum(pair.same for pair in pairs), statistics.mean(pair.copied for pair in pairs)
    spread = f"{statistics.median(ratios):.2f} x ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return f"{name:<30}{spread:>22}  {same:>5} of {len(pairs):<3}  {copied:>6.0%}"


if __name__ == "__main__":
    sys.exit(main())
