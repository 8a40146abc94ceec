"""What `python -m runtime` does, one function a command."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from runtime.bench import BenchRow
from runtime.bench import bench as measure
from runtime.bundle import Bundle
from runtime.chat_console import ChatConsole
from runtime.chat_session import ChatSession
from runtime.chunk import Generation, collect
from runtime.errors import PromptError
from runtime.language_model import LanguageModel
from runtime.sampling_arguments import sampling_options
from runtime.session import DecoderSession
from runtime.tokenizer import Tokenizer

DEFAULT_BENCH_PROMPT_TOKENS, DEFAULT_BENCH_NEW_TOKENS = 512, 64


def generate(args: argparse.Namespace) -> None:
    """Continue a text: as it comes on stdout, or as one JSON object."""
    sampling = sampling_options(args)
    model = _load(args)
    prompt = _read_prompt(args.prompt)
    prompt_ids = model.tokenizer.encode_prompt(prompt)
    stream = model.stream(prompt_ids, sampling)
    if args.json:
        result = collect(stream, prompt_tokens=len(prompt_ids))
        print(json.dumps(_generation_to_dict(prompt, result, model.tokenizer), ensure_ascii=False))
        return
    print(prompt, end="", flush=True)
    result = Generation()
    for chunk in stream:
        result.add(chunk)
        print(chunk.text, end="", flush=True)
    print(flush=True)
    if result.logprobs:
        print(_logprobs_table(result, model.tokenizer), file=sys.stderr)
    is_constrained = sampling.json_schema is not None or sampling.regex is not None
    if is_constrained and result.finish_reason == "length":
        print("[cut: the text is not complete; allow more with --max-new-tokens]", file=sys.stderr)


def chat(args: argparse.Namespace) -> None:
    """A conversation on the terminal; each question is prefilled alone, on top of what was said before."""
    sampling = sampling_options(args)
    session = ChatSession(_load(args), system=args.system, context_policy=args.context_policy)
    ChatConsole(session, sampling, args.system).run()


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


def _read_prompt(prompt: str) -> str:
    if prompt != "-":
        return prompt
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise PromptError(f"stdin is not UTF-8 text: {error}") from None


def _generation_to_dict(prompt: str, result: Generation, tokenizer: Tokenizer) -> dict[str, Any]:
    logprobs = {"logprobs": _logprobs_to_list(result, tokenizer)} if result.logprobs else {}
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
        **logprobs,
    }


def _logprobs_to_list(result: Generation, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    def described(token_id: int, logprob: float) -> dict[str, Any]:
        return {"token_id": token_id, "text": tokenizer.decode([token_id]), "logprob": logprob}

    drawn = zip(result.token_ids, result.logprobs, result.top_logprobs, strict=True)
    return [
        described(token_id, logprob) | {"top": [described(*other) for other in top]} for token_id, logprob, top in drawn
    ]


def _logprobs_table(result: Generation, tokenizer: Tokenizer) -> str:
    """A line for each token: itself, then the likeliest in its place."""

    def described(entry: dict[str, Any]) -> str:
        return f"{json.dumps(entry['text'], ensure_ascii=False)} {entry['logprob']:.3f}"

    return "\n".join(
        "  ".join([described(entry), *("| " + described(other) for other in entry["top"])])
        for entry in _logprobs_to_list(result, tokenizer)
    )


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
