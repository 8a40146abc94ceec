"""`python -m runtime`: what it takes and its help. `commands.py` does the work."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from runtime.cli.command_line import run_to_exit_code
from runtime.cli.sampling_arguments import add_sampling_arguments
from runtime.version import VERSION

RAW = argparse.RawDescriptionHelpFormatter


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command and its options; exits with 2 where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m runtime",
        description="Run a bundle on the CPU, with NumPy and onnxruntime.",
        epilog="example:\n  python -m runtime generate bundles/demo --prompt 'Once upon a time' --seed 1",
        formatter_class=RAW,
    )
    parser.add_argument("--version", action="version", version=f"SmolText {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_generate(commands)
    _add_chat(commands)
    _add_batch(commands)
    _add_bench(commands)
    _add_perplexity(commands)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 failed, 2 usage, 3 a constrained text that was cut."""
    args = parse_args(arguments)

    def command() -> int | None:
        from runtime.cli import commands  # onnxruntime is loaded here: --help must not wait for it

        code: int | None = getattr(commands, args.command)(args)
        return code

    return run_to_exit_code(command)


def _add_generate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "generate",
        help="continue a text",
        description="Continue a text and print it, prompt and continuation; or, with --chat, answer a question.",
        epilog="example:\n  python -m runtime generate bundles/demo --prompt 'Tom had a red car.' --greedy\n"
        "  echo 'What is gravity?' | python -m runtime generate bundles/smollm2 --chat\n"
        "  python -m runtime generate bundles/demo --prompt 'A person: ' --json-schema person.json",
        formatter_class=RAW,
    )
    _add_bundle(parser)
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help="what to continue; '-': stdin as it is; default: what is piped into stdin, without the newline at its "
        "end, else the model starts from its BOS token",
    )
    parser.add_argument("--chat", action="store_true", help="the prompt is a question: print the answer")
    parser.add_argument("--system", metavar="TEXT", help="with --chat: a system message before the question")
    parser.add_argument("--completion-only", action="store_true", help="print the new text without the prompt")
    parser.add_argument("--verbose", action="store_true", help="tell how long it took, on stderr")
    add_sampling_arguments(parser)
    _add_speed(parser)
    parser.add_argument(
        "--sliding-window",
        action="store_true",
        help="go on past the context, approximately: when it is full, the model reads its last half anew and forgets "
        "the rest",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object: text, token ids, speeds")


def _add_chat(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "chat",
        help="talk with a chat model",
        description="Talk with a model that has a chat template. Ctrl-C stops an answer, Ctrl-D ends the chat, "
        "/help lists more. Text that is piped in is one question.",
        epilog="example:\n  python -m runtime chat HuggingFaceTB/SmolLM2-135M-Instruct --system 'Be brief.'",
        formatter_class=RAW,
    )
    _add_bundle(parser)
    parser.add_argument("--system", metavar="TEXT", help="a system message before the first question")
    parser.add_argument(
        "--context-policy",
        choices=("error", "drop_oldest"),
        default="error",
        help="when the context is full: refuse the question, or forget the oldest messages (default %(default)s)",
    )
    parser.add_argument("--line-by-line", action="store_true", help="each line that is piped in is a question")
    parser.add_argument("--verbose", action="store_true", help="tell how long each answer took, on stderr")
    add_sampling_arguments(parser)
    _add_speed(parser)


def _add_batch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "batch",
        help="continue many texts",
        description="Continue the texts of a file, or answer its chats, several at a time: a JSON object a line in, "
        "the same with `completion`, `token_ids`, `finish_reason`, `prompt_tokens` and `new_tokens` out, in order. A "
        "line may have options of its own, named as here with underscores; other keys are copied. A line that fails "
        "has an `error` instead, ends nothing, and makes the exit code 1.",
        epilog="example:\n  python -m runtime batch bundles/demo prompts.jsonl --out texts.jsonl --greedy\n\n"
        "where prompts.jsonl has lines such as\n"
        '  {"prompt": "Once upon a time", "max_new_tokens": 64, "stop": ["."], "id": "a1"}\n'
        '  {"messages": [{"role": "user", "content": "What is gravity?"}], "temperature": 0}\n\n'
        "The same command goes on where it was stopped.",
        formatter_class=RAW,
    )
    _add_bundle(parser)
    parser.add_argument(
        "prompts", metavar="IN", help='a file of JSON lines, or FILE.parquet; "-": JSON lines from stdin'
    )
    parser.add_argument(
        "--out",
        metavar="OUT",
        help="a file of JSON lines, or FILE.parquet, which is there once it is whole; default: JSON lines on stdout",
    )
    parser.add_argument("--overwrite", action="store_true", help="begin OUT anew, whatever is there")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="lines at a time (default 8)")
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: the machines of a Ray cluster (RAY_ADDRESS, or else this machine), which all see BUNDLE and IN; the "
        "same lines out (default %(default)s)",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="of --engine ray; default: what its cores suffice for")
    add_sampling_arguments(parser)


def _add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure speed",
        description="Measure prefill and decode speed: means over repeats with standard deviations, the time that is "
        "Python's, and the share of the memory bandwidth reached. A row for each combination of the lists.",
        epilog="example:\n  python -m runtime bench bundles/demo --prompt-tokens 16,512 --depth 0,1024 --threads 1,2",
        formatter_class=RAW,
    )
    _add_bundle(parser, threads=_integers)
    for name, meaning, default in (
        ("--prompt-tokens", "default: 512, or half the context if less", None),
        ("--new-tokens", "default: 64, or a quarter of the context if less", None),
        ("--depth", "tokens in the cache before (default 0)", [0]),
    ):
        parser.add_argument(name, type=_integers, default=default, metavar="N,N", help=meaning)
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="default 5")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print a JSON list of rows")
    output.add_argument("--markdown", action="store_true", help="print a Markdown table")


def _add_perplexity(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "perplexity",
        help="measure how well a text is predicted",
        description="The perplexity of a text with its 95 % interval, over strided windows; and how far another "
        "precision lies.",
        epilog="example:\n  python -m runtime perplexity bundles/demo --text story.txt --against fp32",
        formatter_class=RAW,
    )
    _add_bundle(parser)
    parser.add_argument("--text", required=True, metavar="FILE", help='a UTF-8 text; "-": stdin')
    parser.add_argument("--against", metavar="P", help="another precision, to measure KL and the change from")
    parser.add_argument("--window", type=int, metavar="N", help="tokens of a window (default: the context)")
    parser.add_argument("--stride", type=int, metavar="N", help="tokens it predicts anew (default: half a window)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="of the text, at most (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _integers(text: str) -> list[int]:
    """A list such as 1,2,4."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of integers such as 1,2,4") from None


def _add_bundle(parser: argparse.ArgumentParser, *, threads: Callable[[str], object] = int) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, or its Hub id")
    parser.add_argument(
        "--precision",
        metavar="P",
        help="int8, int8-kv8 (with a KV cache of int8), q8, fp32, ...; default: int8 if there, or the next best",
    )
    parser.add_argument("--threads", type=threads, metavar="N", help="default: the physical cores that we may use")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a Hub id")


def _add_speed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prefill-precision",
        metavar="P",
        help="run prompts in another precision, over the same cache: q8 is fastest; needs its weights in memory too",
    )
    parser.add_argument(
        "--prompt-lookup",
        action="store_true",
        help="guess tokens from the text so far: faster where it repeats itself, with the same tokens; in int8-kv8 or "
        "fp32, or with --batch-invariant",
    )
    parser.add_argument(
        "--batch-invariant",
        action="store_true",
        help="the same bits however tokens come together, as --prompt-lookup needs them; a tenth slower",
    )


if __name__ == "__main__":
    sys.exit(main())
