"""What `python -m runtime` does, one function a command."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.bundle import Bundle
from runtime.chat_session import ChatSession
from runtime.cli.chat_console import ChatConsole
from runtime.cli.command_line import INCOMPLETE
from runtime.cli.prompts import is_piped, read_file, read_prompt, read_stdin
from runtime.cli.sampling_arguments import sampling_options
from runtime.cli.timings import timings
from runtime.cli.word_wrap import terminal_wrapper
from runtime.engine.session import DecoderSession
from runtime.errors import BatchError, OptionError
from runtime.generation.text_delta import Generation, TextDelta, collect, logprobs_to_list
from runtime.language_model import LanguageModel
from runtime.progress import progress_bar
from runtime.sampling.options import SamplingOptions
from runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from runtime.batch.lines import Result
    from runtime.batch.reading import BatchInput

DEFAULT_BENCH_PROMPT_TOKENS, DEFAULT_BENCH_NEW_TOKENS = 512, 64


def generate(args: argparse.Namespace) -> int:
    """Continue a text, or answer a question: as it comes on stdout, or as one JSON object. Returns the exit code."""
    bundle = Bundle.open(args.bundle, revision=args.revision)
    sampling = sampling_options(args, bundle.generation_defaults)
    prompt = read_prompt(args.prompt)
    model = _load_for_texts(bundle, args)
    prompt_ids = _question_ids(model, args.system, prompt) if args.chat else model.tokenizer.encode_prompt(prompt)
    before = "" if args.chat else prompt
    # What is refused is refused here, before anything is printed.
    stream = (model.stream_past_context if args.sliding_window else model.stream)(prompt_ids, sampling)
    if args.json:
        result = collect(stream, prompt_tokens=len(prompt_ids))
        print(json.dumps(_generation_to_dict(before, result, model.tokenizer), ensure_ascii=False))
    else:
        result = _print_as_it_comes("" if args.completion_only else before, stream, len(prompt_ids), model.tokenizer)
    if args.verbose:
        print(timings(result, model), file=sys.stderr)
    if result.finish_reason == "incomplete":
        print("[cut: the text is not complete; allow more with --max-new-tokens]", file=sys.stderr)
        return INCOMPLETE
    return 0


def chat(args: argparse.Namespace) -> None:
    """A conversation on the terminal; each question is prefilled alone, on top of what was said before."""
    bundle = Bundle.open(args.bundle, revision=args.revision)
    sampling = sampling_options(args, bundle.generation_defaults)
    model = _load_for_texts(bundle, args)
    session = ChatSession(model, system=args.system, context_policy=args.context_policy)
    console = ChatConsole(
        session,
        sampling,
        args.system,
        verbose=(lambda result: timings(result, model)) if args.verbose else None,
    )
    if is_piped() and not args.line_by_line:
        question = read_stdin()
        if question.strip():
            console.answer(question.rstrip("\n"))
        return
    console.greet(f"{bundle.folder.name}, {model.session.precision}, context of {session.context_tokens:,} tokens")
    console.run()


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
    token_ids = Tokenizer(bundle).encode(read_file(args.text))[: args.max_tokens]
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

    bundle = Bundle.open(args.bundle, revision=args.revision)
    sampling = sampling_options(args, bundle.generation_defaults)
    with open_input(args.prompts) as source:
        job = describe_job(source, bundle, args.precision or bundle.default_precision, sampling)
        with open_output(args.out, args.prompts, source, job, overwrite=args.overwrite) as output:
            was_finished = output.is_finished
            if not was_finished:
                results, left = _results(bundle, args, sampling, source, output.done), source.count - output.done
                for result in progress_bar(results, description="batch", unit="lines", total=left):
                    output.write(result)
                output.finish()
    where = f"{args.out} was finished before: " if was_finished else f"{args.out}: " if args.out else ""
    if output.failed:
        raise BatchError(f"{where}{output.failed:,} of {output.done:,} lines failed; `error` says why")
    print(f"{where}{output.done:,} lines, none failed", file=sys.stderr)


def _results(
    bundle: Bundle, args: argparse.Namespace, sampling: SamplingOptions, source: BatchInput, done: int
) -> Iterator[Result]:
    """What the engine makes of the lines that are not done."""
    if args.engine == "local":
        from runtime.batch.worker import BatchWorker

        worker = BatchWorker(_load(bundle, args), sampling, batch_size=args.batch_size)
        return worker.run(source.lines(done))
    from runtime.batch.ray_engine import RemoteWork, check_work, run_on_ray

    if not Path(args.prompts).is_file():
        raise OptionError("--engine ray reads a file, which its workers open themselves")
    bundle_path = Path(args.bundle)
    work = RemoteWork(
        bundle=str(bundle_path.resolve()) if bundle_path.exists() else args.bundle,
        revision=args.revision,
        path=str(Path(args.prompts).resolve()),
        precision=args.precision or bundle.default_precision,
        sampling=sampling,
        batch_size=args.batch_size,
        threads=args.threads,
    )
    check_work(bundle, work)
    return run_on_ray(work, done=done, left=source.count - done, workers=args.workers)


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


def _print_as_it_comes(
    before: str, stream: Iterator[TextDelta], prompt_tokens: int, tokenizer: Tokenizer
) -> Generation:
    wrapped = terminal_wrapper()
    print(wrapped(before), end="", flush=True)
    result = collect(
        stream,
        prompt_tokens=prompt_tokens,
        on_delta=lambda delta: print(wrapped(delta.text), end="", flush=True),
    )
    print(flush=True)
    if result.logprobs:
        print(_logprobs_table(result, tokenizer), file=sys.stderr)
    return result


def _question_ids(model: LanguageModel, system: str | None, question: str) -> list[int]:
    """A single question through the model's chat template."""
    messages = [{"role": "system", "content": system}] if system else []
    text = model.chat_template.render([*messages, {"role": "user", "content": question}])
    return model.tokenizer.encode_prompt(text, add_special_tokens=False)


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
