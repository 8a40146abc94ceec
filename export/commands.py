"""What `python -m export` does, one function a command."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from export import bundle as bundles
from export.compare import Comparison
from export.compare import compare as measure
from export.errors import ExportError
from export.manifest import check_files, describe, read_manifest
from export.precisions import parse_precisions
from export.report import table
from model import Checkpoint, TransformerModel, load_checkpoint
from runtime.bundle import Bundle
from runtime.tokenizer import Tokenizer

# fp32 ONNX and PyTorch differ by the order of additions alone; more than this is a wrong graph.
FP32_TOLERANCE = 1e-3


def run(args: argparse.Namespace) -> None:
    """Export, compare, and say where the bundle is."""
    precisions = parse_precisions(args.precisions)
    text = _read_text(args)  # what is wrong with it should show now, not after the export
    checkpoint = Checkpoint(args.checkpoint, revision=args.revision)
    shown = []

    def compare_before_rename(folder: Path) -> dict[str, Any]:
        comparison = _compare(Bundle.open(folder), load_checkpoint(checkpoint.folder), text, args)
        _refuse_wrong_graph(comparison)
        shown.append(table(comparison))
        return comparison.to_dict()

    manifest = bundles.export_bundle(
        checkpoint,
        Path(args.out),
        precisions,
        source=str(args.checkpoint),
        compare=None if args.no_compare else compare_before_rename,
    )
    print(json.dumps(manifest) if args.json else "\n".join([*shown, f"bundle: {args.out}"]))


def compare(args: argparse.Namespace) -> None:
    """The figures, as a table or as JSON."""
    text = _read_text(args)
    comparison = _compare(Bundle.open(args.bundle), load_checkpoint(args.checkpoint), text, args)
    print(json.dumps(comparison.to_dict()) if args.json else table(comparison))


def inspect(args: argparse.Namespace) -> None:
    """The manifest, checked against the files."""
    bundle = Bundle.open(args.bundle)
    manifest = read_manifest(bundle.folder)
    check_files(bundle.folder, manifest)
    print(json.dumps(manifest) if args.json else describe(manifest))


def _compare(bundle: Bundle, model: TransformerModel, text: str | None, args: argparse.Namespace) -> Comparison:
    options: dict[str, Any] = {"window": args.window, "threads": args.threads}
    if text is not None:
        options |= {"token_ids": Tokenizer(bundle).encode(text), "text": Path(args.text).name}
    return measure(bundle, model, **options)


def _read_text(args: argparse.Namespace) -> str | None:
    """The text to compare on; None for the model's own samples."""
    if args.text is None:
        return None
    try:
        return Path(args.text).read_text(encoding="utf-8")[: args.max_characters]
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"--text {args.text} is not a readable UTF-8 text: {error}") from None


def _refuse_wrong_graph(comparison: Comparison) -> None:
    figures = comparison.precisions.get("fp32")
    if figures is not None and not figures.max_relative_logit_difference <= FP32_TOLERANCE:
        raise ExportError(
            f"the fp32 graph does not compute what PyTorch computes (logits differ by "
            f"{figures.max_relative_logit_difference:.1e} of the largest); no bundle was written: please report this"
        )
