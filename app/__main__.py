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
        description="Write with a bundle in the browser; the model runs on this machine's CPU.",
        epilog="example:\n  python -m app run bundles/demo --port 7860",
        formatter_class=RAW,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 failed, 2 usage."""
    args = parse_args(arguments)

    def command() -> None:
        from app import commands  # gradio takes seconds to load: --help must not wait for it

        getattr(commands, args.command)(args)

    return run_to_exit_code(command)


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "run",
        help="serve the page",
        description="Serve a page that continues a text, token by token. Ctrl-C ends it.",
        epilog="example:\n  python -m app run bundles/demo --precision int8 --port 8080",
        formatter_class=RAW,
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, or its Hub id")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default %(default)s)")
    parser.add_argument("--port", type=_port, default=7860, metavar="N", help="default %(default)s")
    parser.add_argument(
        "--precision", metavar="P", help="selected at first: int8, q8, fp32, ...; default: int8 if there"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="default: the physical cores that we may use")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a Hub id")
    parser.add_argument(
        "--share", action="store_true", help="also make a public address, through Gradio's relay (needs the internet)"
    )


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"a port lies in 1..65535, not {port}")
    return port


if __name__ == "__main__":
    sys.exit(main())
