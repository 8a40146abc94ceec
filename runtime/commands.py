"""What `python -m runtime` does, one function a command."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from runtime.bench import BenchRow
from runtime.bench import bench as measure
from runtime.bundle import Bundle
from runtime.chat_template import Message
from runtime.errors import OptionError, PromptError
from runtime.language_model import Generation, LanguageModel, collect
from runtime.sampling_options import SamplingOptions
from runtime.session import DecoderSession

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
    """A row for each precision asked for, as a table or as JSON."""
    bundle = Bundle.open(args.bundle, revision=args.revision)
    context = bundle.shape.max_position_embeddings
    prompt_tokens = min(DEFAULT_BENCH_PROMPT_TOKENS, context // 2) if args.prompt_tokens is None else args.prompt_tokens
    new_tokens = min(DEFAULT_BENCH_NEW_TOKENS, context // 4) if args.new_tokens is None else args.new_tokens
    names = [args.precision] if args.precision else list(bundle.precisions)
    rows = []
    for name in names:
        session = DecoderSession(bundle, name, threads=args.threads)
        rows.append(
            measure(session, prompt_tokens=prompt_tokens, new_tokens=new_tokens, depth=args.depth, repeats=args.repeats)
        )
    print(json.dumps([row.to_dict() for row in rows]) if args.json else _bench_table(rows))


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


def _bench_table(rows: list[BenchRow]) -> str:
    header = "precision", "threads", "depth", "prompt", "prefill tokens/s", "new", "decode tokens/s"
    lines = ["{:<10} {:>7} {:>6} {:>7} {:>20} {:>5} {:>20}".format(*header)]
    for row in rows:
        prefill = f"{row.prefill_tokens_per_second:,.1f} ± {row.prefill_tokens_per_second_std:.1f}"
        decode = f"{row.decode_tokens_per_second:,.1f} ± {row.decode_tokens_per_second_std:.1f}"
        lines.append(
            f"{row.precision:<10} {row.threads:>7} {row.depth:>6} {row.prompt_tokens:>7} {prefill:>20} "
            f"{row.new_tokens:>5} {decode:>20}"
        )
    return "\n".join(lines)
