"""What `python -m runtime` does, one function a command."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from runtime.batch_file import read_lines, run_lines
from runtime.bench_sweep import Sweep
from runtime.bench_sweep import table as bench_table
from runtime.bundle import Bundle
from runtime.chat_template import Message
from runtime.errors import OptionError, PromptError
from runtime.language_model import Generation, LanguageModel, collect
from runtime.perplexity import measure_perplexity
from runtime.progress import ProgressBar
from runtime.sampling_options import SamplingOptions
from runtime.session import DecoderSession
from runtime.tokenizer import Tokenizer

DEFAULT_BENCH_PROMPT_TOKENS, DEFAULT_BENCH_NEW_TOKENS = 512, 64


def generate(args: argparse.Namespace) -> None:
    """Continue a text: as it comes on stdout, or as one JSON object."""
    sampling = _sampling(args)
    model = _load(args)
    prompt = _read_prompt(args.prompt)
    prompt_ids = model.tokenizer.encode(prompt)
    stream = model.stream(prompt_ids, sampling=sampling, max_new_tokens=args.max_new_tokens, stop_strings=args.stop)
    if args.json:
        result = collect(stream, prompt_tokens=len(prompt_ids))
        print(json.dumps(_generation_to_dict(prompt, result), ensure_ascii=False))
        return
    print(prompt, end="", flush=True)
    for chunk in stream:
        print(chunk.text, end="", flush=True)
    print()


def chat(args: argparse.Namespace) -> None:
    """A conversation on the terminal; its history is sent with every question."""
    sampling = _sampling(args)
    model = _load(args)
    messages: list[Message] = [{"role": "system", "content": args.system}] if args.system else []
    model.check_chat()  # before the first question, not after it
    while (question := _ask()) is not None:
        if not question.strip():
            continue
        messages.append({"role": "user", "content": question})
        answer = ""
        try:
            for chunk in model.chat(messages, sampling=sampling, max_new_tokens=args.max_new_tokens):
                answer += chunk.text
                print(chunk.text, end="", flush=True)
        except KeyboardInterrupt:
            print(" [stopped]", end="")
        print()
        messages.append({"role": "assistant", "content": answer})


def bench(args: argparse.Namespace) -> None:
    """A row for each combination asked for, as a table or as JSON."""
    bundle = Bundle.open(args.bundle, revision=args.revision)
    context = bundle.shape.max_position_embeddings
    sweep = Sweep(
        bundle,
        precisions=[args.precision] if args.precision else list(bundle.precisions),
        threads=args.threads or [None],
        prompt_tokens=args.prompt_tokens or [min(DEFAULT_BENCH_PROMPT_TOKENS, context // 2)],
        new_tokens=args.new_tokens or [min(DEFAULT_BENCH_NEW_TOKENS, context // 4)],
        depths=args.depth,
        repeats=args.repeats,
    )
    rows = []
    with ProgressBar("rows") as bar:
        bar.show(0, len(sweep))
        for row in sweep.rows():
            rows.append(row)
            bar.show(len(rows), len(sweep))
    print(json.dumps([row.to_dict() for row in rows]) if args.json else bench_table(rows, markdown=args.markdown))


def perplexity(args: argparse.Namespace) -> None:
    """How well a precision predicts a text file."""
    bundle = Bundle.open(args.bundle, revision=args.revision)
    token_ids = Tokenizer(bundle).encode(_read_file(args.text))[: args.max_tokens]
    session = DecoderSession(bundle, args.precision or bundle.default_precision, threads=args.threads)
    against = DecoderSession(bundle, args.against, threads=args.threads, spin=False) if args.against else None
    with ProgressBar("windows") as bar:
        result = measure_perplexity(
            session, token_ids, window=args.window, stride=args.stride, against=against, on_window=bar.show
        )
    print(json.dumps(result.to_dict()) if args.json else result)


def batch(args: argparse.Namespace) -> None:
    """A file of prompts: JSON lines in, JSON lines out, in order."""
    sampling = _sampling(args)
    lines = read_lines(_read_file(args.prompts).splitlines())
    bundle = Bundle.open(args.bundle, revision=args.revision)
    session = DecoderSession(bundle, args.precision or bundle.default_precision, threads=args.threads)
    results = run_lines(
        bundle,
        session,
        lines,
        sampling=sampling,
        max_new_tokens=args.max_new_tokens,
        batch_size=args.batch_size,
    )
    with ProgressBar("prompts") as bar:
        for done, result in enumerate(results, start=1):
            print(json.dumps(result, ensure_ascii=False), flush=True)
            bar.show(done, len(lines))


def _load(args: argparse.Namespace) -> LanguageModel:
    return LanguageModel.load(args.bundle, precision=args.precision, threads=args.threads, revision=args.revision)


def _sampling(args: argparse.Namespace) -> SamplingOptions:
    names = [field.name for field in dataclasses.fields(SamplingOptions)]
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    if args.greedy:
        if given.get("temperature"):
            raise OptionError("--greedy and --temperature contradict each other; give one")
        given["temperature"] = 0.0
    return SamplingOptions(**given)


def _read_prompt(prompt: str) -> str:
    if prompt != "-":
        return prompt
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from None


def _read_file(path: str) -> str:
    """A text file, or stdin for `-`."""
    if path == "-":
        return _read_prompt(path)
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not UTF-8 text: {error}") from None


def _generation_to_dict(prompt: str, result: Generation) -> dict[str, Any]:
    return {
        "text": prompt + result.text,
        "completion": result.text,
        "token_ids": result.token_ids,
        "finish_reason": result.finish_reason,
        "prompt_tokens": result.prompt_tokens,
        "new_tokens": result.new_tokens,
        "time_to_first_token_seconds": result.time_to_first_token_seconds,
        "prefill_tokens_per_second": result.prefill_tokens_per_second,
        "decode_tokens_per_second": result.decode_tokens_per_second,
    }


def _ask() -> str | None:
    """A line from the user; None at the end of input. The prompt goes to a terminal alone."""
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from None


def _not_utf8(error: UnicodeDecodeError) -> PromptError:
    return PromptError(f"stdin is not UTF-8 text: {error}")
