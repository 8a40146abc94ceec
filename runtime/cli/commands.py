"""What `python -m runtime` does, one function a command."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from runtime.bundle import Bundle
from runtime.chat_session import ChatSession
from runtime.cli.chat_console import ChatConsole
from runtime.cli.sampling_arguments import sampling_options
from runtime.engine.session import DecoderSession
from runtime.errors import BatchError, PromptError
from runtime.generation.text_delta import Generation, collect, logprobs_to_list
from runtime.language_model import LanguageModel
from runtime.progress import progress_bar
from runtime.text.tokenizer import Tokenizer

DEFAULT_BENCH_PROMPT_TOKENS, DEFAULT_BENCH_NEW_TOKENS = 512, 64


def generate(args: argparse.Namespace) -> None:
    """Continue a text: as it comes on stdout, or as one JSON object."""
    bundle = Bundle.open(args.bundle, revision=args.revision)
    sampling = sampling_options(args, bundle.generation_defaults)
    model = _load_for_texts(bundle, args)
    prompt = _read_prompt(args.prompt)
    prompt_ids = model.tokenizer.encode_prompt(prompt)
    stream = (model.stream_past_context if args.sliding_window else model.stream)(prompt_ids, sampling)
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
    bundle = Bundle.open(args.bundle, revision=args.revision)
    sampling = sampling_options(args, bundle.generation_defaults)
    session = ChatSession(_load_for_texts(bundle, args), system=args.system, context_policy=args.context_policy)
    ChatConsole(session, sampling, args.system).run()


def bench(args: argparse.Namespace) -> None:
    """A row for each combination asked for, as a table or as JSON."""
    from runtime.evaluation.bench_sweep import Sweep
    from runtime.evaluation.bench_sweep import table as bench_table

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
    rows = list(progress_bar(sweep.rows(), description="bench", unit="rows", total=len(sweep)))
    print(json.dumps([row.to_dict() for row in rows]) if args.json else bench_table(rows, markdown=args.markdown))


def perplexity(args: argparse.Namespace) -> None:
    """How well a precision predicts a text file."""
    from runtime.evaluation.perplexity import measure_perplexity

    bundle = Bundle.open(args.bundle, revision=args.revision)
    token_ids = Tokenizer(bundle).encode(_read_file(args.text))[: args.max_tokens]
    session = DecoderSession(bundle, args.precision or bundle.default_precision, threads=args.threads)
    against = DecoderSession(bundle, args.against, threads=args.threads, spin=False) if args.against else None
    result = measure_perplexity(
        session, token_ids, window=args.window, stride=args.stride, against=against, progress=True
    )
    print(json.dumps(result.to_dict()) if args.json else result)


def batch(args: argparse.Namespace) -> None:
    """A file of prompts: a line out for each line in, in order."""
    from runtime.batch.job import describe_job, open_output
    from runtime.batch.reading import open_input
    from runtime.batch.worker import BatchWorker

    bundle = Bundle.open(args.bundle, revision=args.revision)
    sampling = sampling_options(args, bundle.generation_defaults)
    with open_input(args.prompts) as source:
        job = describe_job(source, bundle, args.precision or bundle.default_precision, sampling)
        with open_output(args.out, args.prompts, source, job, overwrite=args.overwrite) as output:
            was_finished = output.is_finished
            if not was_finished:
                worker = BatchWorker(_load(bundle, args), sampling, batch_size=args.batch_size)
                results, left = worker.run(source.lines(output.done)), source.count - output.done
                for result in progress_bar(results, description="batch", unit="lines", total=left):
                    output.write(result)
                output.finish()
    where = f"{args.out} was finished before: " if was_finished else f"{args.out}: " if args.out else ""
    if output.failed:
        raise BatchError(f"{where}{output.failed:,} of {output.done:,} lines failed; `error` says why")
    print(f"{where}{output.done:,} lines, none failed", file=sys.stderr)


def _load(bundle: Bundle, args: argparse.Namespace, **options: Any) -> LanguageModel:
    return LanguageModel.load(bundle, precision=args.precision, threads=args.threads, **options)


def _load_for_texts(bundle: Bundle, args: argparse.Namespace) -> LanguageModel:
    return _load(
        bundle,
        args,
        prefill_precision=args.prefill_precision,
        prompt_lookup=args.prompt_lookup,
        batch_invariant=args.batch_invariant,
    )


def _read_prompt(prompt: str) -> str:
    if prompt != "-":
        return prompt
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise PromptError(f"stdin is not UTF-8 text: {error}") from None


def _read_file(path: str) -> str:
    """A text file, or stdin for `-`."""
    if path == "-":
        return _read_prompt(path)
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise PromptError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not UTF-8 text: {error}") from None


def _generation_to_dict(prompt: str, result: Generation, tokenizer: Tokenizer) -> dict[str, Any]:
    logprobs = {"logprobs": logprobs_to_list(result, tokenizer)} if result.logprobs else {}
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


def _logprobs_table(result: Generation, tokenizer: Tokenizer) -> str:
    """A line for each token: itself, then the likeliest in its place."""

    def described(entry: dict[str, Any]) -> str:
        return f"{json.dumps(entry['text'], ensure_ascii=False)} {entry['logprob']:.3f}"

    return "\n".join(
        "  ".join([described(entry), *("| " + described(other) for other in entry["top"])])
        for entry in logprobs_to_list(result, tokenizer)
    )
