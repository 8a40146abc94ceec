"""`python -m app`: the page in a browser. Parses the command line; `commands.py` does the work."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from runtime.cli.command_line import run_to_exit_code

RAW = argparse.RawDescriptionHelpFormatter


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command and its options; exits with 2 where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m app",
        description="A bundle in the browser, or for programs; the model runs on this machine's CPU.",
        epilog="example:\n  python -m app run bundles/demo --port 7860\n  python -m app serve bundles/demo --port 8000",
        formatter_class=RAW,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_serve(commands)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 failed, 2 usage."""
    args = parse_args(arguments)

    def command() -> None:
        from app import commands  # what a command needs takes seconds to load: --help must not wait for it

        getattr(commands, args.command)(args)

    return run_to_exit_code(command)


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "run",
        help="serve the page",
        description="Serve a page to write, chat and compare with, and OpenAI's API under /v1. Many visitors share the "
        "model. Ctrl-C ends it.",
        epilog="example:\n  python -m app run bundles/demo --precision int8 --port 8080",
        formatter_class=RAW,
    )
    _add_bundle(parser, port=7860, precision="selected at first")
    parser.add_argument(
        "--max-prompt-tokens", type=_positive, metavar="N", help="of one prompt; default: the model's context"
    )
    parser.add_argument(
        "--max-texts",
        type=_positive,
        default=4,
        metavar="N",
        help="of one address, waiting and running (default %(default)s)",
    )
    parser.add_argument(
        "--share", action="store_true", help="also make a public address, through Gradio's relay (needs the internet)"
    )
    _add_server(parser)


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "serve",
        help="serve OpenAI's API",
        description="Serve OpenAI's API: /v1/completions, /v1/chat/completions, /v1/models; beside them /tokenize, "
        "/detokenize, /health, /metrics, and /openapi.json, which describes them all. Many clients share the model. "
        "SIGTERM and Ctrl-C let requests under way end and refuse new ones; a second one ends at once.",
        epilog="example:\n  python -m app serve bundles/demo --port 8000 --slots 8\n"
        "  curl localhost:8000/v1/completions -H 'content-type: application/json' \\\n"
        '       -d \'{"prompt": "Once upon a time", "max_tokens": 32}\'',
        formatter_class=RAW,
    )
    _add_bundle(parser, port=8000, precision="default: int8 if there")
    parser.add_argument(
        "--prefill-precision", metavar="P", help="run prompts in another precision, over the same cache: q8 is fastest"
    )
    parser.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="clients must have the key in it; default: that of the environment's SMOLTEXT_API_KEY, or none",
    )
    _add_server(parser)


def _add_server(parser: argparse.ArgumentParser) -> None:
    """Options of everything that is served."""
    parser.add_argument("--model-name", metavar="NAME", help="as people and clients read it; default: the bundle's own")
    parser.add_argument("--slots", type=_positive, default=8, metavar="N", help="texts at once (default %(default)s)")
    parser.add_argument(
        "--queue", type=int, default=64, metavar="N", help="texts that may wait; more get 429 (default %(default)s)"
    )
    parser.add_argument(
        "--max-pause-steps",
        type=float,
        default=0.9,
        metavar="X",
        help="between two steps, a piece of a new prompt may take about X steps: more for throughput, fewer for steady "
        "streams (default %(default)s)",
    )
    parser.add_argument(
        "--max-new-tokens", type=_positive, metavar="N", help="of one text, at most; default: the model's context"
    )
    parser.add_argument(
        "--max-body-bytes", type=_positive, default=2**20, metavar="N", help="of one request (default %(default)s)"
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name of this server in the Host header, behind a proxy, say; may be repeated. Default: with a loopback "
        "--host only that, else any",
    )
    parser.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a site whose pages' scripts may call, such as https://chat.example; may be repeated",
    )
    parser.add_argument(
        "--drain-seconds",
        type=float,
        default=60,
        metavar="S",
        help="for requests under way to end after a signal (default %(default)s)",
    )


def _add_bundle(parser: argparse.ArgumentParser, *, port: int, precision: str) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, or its Hub id")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default %(default)s)")
    parser.add_argument("--port", type=_port, default=port, metavar="N", help="default %(default)s")
    parser.add_argument("--precision", metavar="P", help=f"int8, int8-kv8, q8, fp32, ...; {precision}")
    parser.add_argument("--threads", type=int, metavar="N", help="default: the physical cores that we may use")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a Hub id")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"it must be at least 1, not {number}")
    return number


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"a port lies in 1..65535, not {port}")
    return port


if __name__ == "__main__":
    sys.exit(main())
