"""`python -m export`: run, compare, push, inspect. Parses the command line; `commands.py` does the work."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from runtime.cli.command_line import run_to_exit_code
from runtime.precisions import INT8_CACHE_SUFFIX, PRECISIONS

RAW = argparse.RawDescriptionHelpFormatter


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command and its options; exits with 2 where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Turn a checkpoint into a bundle of ONNX files, and hold the two against each other.",
        epilog="example:\n  python -m export run HuggingFaceTB/SmolLM2-135M --out bundles/smollm2-135m",
        formatter_class=RAW,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_compare(commands)
    _add_push(commands)
    _add_inspect(commands)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 failed, 2 usage."""
    args = parse_args(arguments)

    def command() -> None:
        from export import commands  # torch is loaded here: --help must not wait for it

        getattr(commands, args.command)(args)

    return run_to_exit_code(command)


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "run",
        help="checkpoint -> bundle",
        description="Export a checkpoint in one or more precisions, and compare each with PyTorch.",
        epilog="example:\n  python -m export run runs/demo/checkpoint --out bundles/demo --precisions fp32,int8",
        formatter_class=RAW,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a Hugging Face folder, its Hub id, or a GGUF file")
    parser.add_argument(
        "--out", required=True, metavar="BUNDLE", help="the folder to write; an older bundle is replaced"
    )
    own_weights = [row.name for row in PRECISIONS.values() if not row.has_int8_cache]
    parser.add_argument(
        "--precisions",
        default="fp32,int8,q8",
        metavar="P,P,...",
        help=f"{', '.join(own_weights)} (auto: within --kl-budget); with {INT8_CACHE_SUFFIX} behind the name, the KV "
        "cache is int8: faster at long texts (default %(default)s)",
    )
    parser.add_argument(
        "--kl-budget",
        type=float,
        default=0.01,
        metavar="NATS",
        help="how far `auto` may be from the model: KL divergence, a mean over tokens (default %(default)s)",
    )
    parser.add_argument(
        "--calibration-tokens",
        type=int,
        metavar="N",
        help="tokens that the model samples for calibration: weights are smoothed, and rounded to lose least on them "
        "(GPTQ), and an int8 KV cache takes its scales from them; 0 rounds weights to the nearest, which is quick "
        "(default: 4,096, or 16,384 for 4 bits)",
    )
    parser.add_argument(
        "--name", help="of the model, as people read it; default: the Hub id's, the model's own, or the folder's"
    )
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a Hub id")
    parser.add_argument("--tokenizer", metavar="FOLDER", help="take its tokenizer instead of the GGUF file's own")
    parser.add_argument(
        "--portable", action="store_true", help="standard ONNX operators alone: for other engines, slower in ours"
    )
    parser.add_argument("--no-compare", action="store_true", help="skip the comparison (and the memory it needs)")
    _add_text(parser)
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")


def _add_compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "compare",
        help="is the exported model the model?",
        description="Compare every precision of a bundle with the PyTorch checkpoint that it came from. Without a "
        "checkpoint (and without torch) they are compared with the bundle's own fp32. Exits with 1 where a precision "
        "is too far off.",
        epilog="example:\n  python -m export compare bundles/demo --checkpoint runs/demo/checkpoint --text story.txt "
        "\\\n    --report reports --max-kl int8=0.002,q8=0.003",
        formatter_class=RAW,
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, or its Hub id")
    parser.add_argument("--checkpoint", metavar="CHECKPOINT", help="a Hugging Face folder, its Hub id, or a GGUF file")
    _add_text(parser)
    parser.add_argument("--report", metavar="DIR", help="write DIR/compare.html (or a FILE.html), with plots")
    limit = "X or int8=X,q4=X"
    for option, meaning, field in (
        ("--max-kl", "KL in nats", "max_kl"),
        ("--min-top1", "share of equal likeliest tokens", "min_top1"),
        ("--max-perplexity-change", "relative, up or down", "max_perplexity_change"),
    ):
        defaults = ", ".join(f"{name} {getattr(PRECISIONS[name].limits, field):g}" for name in ("fp32", "int8", "q4"))
        parser.add_argument(
            option, metavar=limit, help=f"{meaning}; by default {defaults}, ... (wider below 50M parameters)"
        )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _add_push(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "push",
        help="bundle -> the Hub",
        description="Upload what a bundle's manifest lists, in one commit. After a dropped connection, run it again: "
        "only what is missing is sent.",
        epilog="example:\n  python -m export push bundles/demo --repo me/demo-onnx --license apache-2.0",
        formatter_class=RAW,
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder")
    parser.add_argument(
        "--repo", required=True, metavar="OWNER/NAME", help="a model repository, created if it does not exist"
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", metavar="BRANCH", help="default main; created if it does not exist")
    parser.add_argument("--license", metavar="ID", help="for the model card; default: the base model's own")
    parser.add_argument(
        "--base-model", metavar="HUB_ID", help="for the model card; default: what was exported, if it came by Hub id"
    )
    parser.add_argument("--json", action="store_true", help="print what was sent as JSON")


def _add_inspect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "inspect",
        help="what is in a bundle, and is it whole?",
        description="Show a bundle's precisions and parameters, the sampling defaults that its generation_config.json "
        "sets, and check every file against the manifest's SHA-256.",
        epilog="example:\n  python -m export inspect bundles/demo",
        formatter_class=RAW,
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, or its Hub id")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON, with `sampling_defaults`")


def _add_text(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", metavar="FILE", help="a UTF-8 text to predict; default: samples of the model's own")
    parser.add_argument("--max-characters", type=int, metavar="N", help="read only the first N characters of it")
    parser.add_argument("--threads", type=int, metavar="N", help="for onnxruntime; default: the physical cores")
    parser.add_argument("--window", type=int, default=512, metavar="N", help="longest context in tokens (default 512)")


if __name__ == "__main__":
    sys.exit(main())
