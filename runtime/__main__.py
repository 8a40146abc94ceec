"""`python -m runtime`: generate, chat, bench. Parses the command line; `commands.py` does the work."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from runtime.command_line import run_to_exit_code
from runtime.sampling_arguments import add_sampling_arguments

RAW = argparse.RawDescriptionHelpFormatter


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command and its options; exits with 2 where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m runtime",
        description="Run a bundle on the CPU, with NumPy and onnxruntime.",
        epilog="example:\n  python -m runtime generate bundles/demo --prompt 'Once upon a time' --seed 1",
        formatter_class=RAW,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_generate(commands)
    _add_chat(commands)
    _add_bench(commands)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 failed, 2 usage."""
    args = parse_args(arguments)

    def command() -> None:
        from runtime import commands  # onnxruntime is loaded here: --help must not wait for it

        getattr(commands, args.command)(args)

    return run_to_exit_code(command)


def _add_generate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "generate",
        help="continue a text",
        description="Continue a text and print it, prompt and continuation.",
        epilog="example:\n  python -m runtime generate bundles/demo --prompt 'Tom had a red car.' --greedy\n"
        "  python -m runtime generate bundles/demo --prompt 'A person: ' --json-schema person.json",
        formatter_class=RAW,
    )
    _add_bundle(parser)
    parser.add_argument(
        "--prompt",
        default="",
        metavar="TEXT",
        help="what to continue; '-' reads it from stdin; without it the model starts from its BOS token",
    )
    add_sampling_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object: text, token ids, speeds")


def _add_chat(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "chat",
        help="talk with a chat model",
        description="Talk with a model that has a chat template. Ctrl-C stops an answer, Ctrl-D ends the chat, "
        '/help lists more; """ begins and ends a question of several lines.',
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
    add_sampling_arguments(parser)


def _add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure speed",
        description="Measure prefill and decode speed: means over repeats, with standard deviations.",
        epilog="example:\n  python -m runtime bench bundles/demo --prompt-tokens 512 --new-tokens 128 --json",
        formatter_class=RAW,
    )
    _add_bundle(parser)
    parser.add_argument("--prompt-tokens", type=int, metavar="N", help="default: 512, or half the context if less")
    parser.add_argument("--new-tokens", type=int, metavar="N", help="default: 64, or a quarter of the context if less")
    parser.add_argument("--depth", type=int, default=0, metavar="N", help="tokens in the cache before (default 0)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="default 5")
    parser.add_argument("--json", action="store_true", help="print a JSON list of rows")


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, or its Hub id")
    parser.add_argument(
        "--precision", metavar="P", help="int8, q8, fp32, ...; default: int8 if there, or the next best"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="default: the physical cores that we may use")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a Hub id")


if __name__ == "__main__":
    sys.exit(main())
