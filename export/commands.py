"""What `python -m export` does, one function a command. Each imports what it needs: only some need torch."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.comparison.report import table
from export.comparison.results import Comparison
from export.errors import ExportError
from export.manifest import check_files, describe, read_manifest
from runtime.bundle import Bundle
from runtime.generation_config import FILE as GENERATION_CONFIG
from runtime.generation_config import stored_defaults
from runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from export.comparison.reference import Reference

# fp32 ONNX and PyTorch differ by the order of additions alone; more than this is a wrong graph.
FP32_TOLERANCE = 1e-3
REPORT_FILE = "compare.html"


def run(args: argparse.Namespace) -> None:
    """Export, compare, and say where the bundle is."""
    from export.bundle import export_bundle
    from export.comparison.thresholds import unfit
    from export.comparison.torch_reference import TorchReference
    from export.precisions import parse_precisions
    from model import build_model, open_checkpoint

    precisions = parse_precisions(args.precisions, kl_budget=args.kl_budget)
    text = _read_text(args)  # what is wrong with it should show now, not after the export
    checkpoint = open_checkpoint(args.checkpoint, revision=args.revision, tokenizer=args.tokenizer)
    shown = []

    def compare_before_rename(folder: Path) -> dict[str, Any]:
        comparison = _compare(Bundle.open(folder), TorchReference(build_model(checkpoint)), text, args)
        _refuse_wrong_graph(comparison)
        found = unfit(comparison)
        shown.extend([table(comparison), *found.values()])
        return comparison.to_dict() | {"unfit": found}

    manifest = export_bundle(
        checkpoint,
        Path(args.out),
        precisions,
        source=str(args.checkpoint),
        base_model=None if Path(args.checkpoint).exists() else args.checkpoint,
        name=args.name,
        portable=args.portable,
        calibration_tokens=args.calibration_tokens,
        compare=None if args.no_compare else compare_before_rename,
    )
    print(json.dumps(manifest) if args.json else "\n".join([*shown, f"bundle: {args.out}"]))


def compare(args: argparse.Namespace) -> None:
    """The figures, as a table or as JSON, and as a report; too far from the reference is an error."""
    from export.comparison.report_html import html_report
    from export.comparison.thresholds import OPTIONS, parse_limits, shortfalls, unfit
    from model.files import write_text

    text = _read_text(args)
    bundle = Bundle.open(args.bundle)
    parameters = bundle.manifest.get("parameters", {}).get("total")
    given = {name: getattr(args, name) for name in OPTIONS}
    limits = parse_limits(given, bundle.precisions, parameters=parameters)
    reference = None if args.checkpoint is None else _torch_reference(args.checkpoint)
    comparison = _compare(bundle, reference, text, args, details=True)
    faults, warnings = shortfalls(comparison, limits), unfit(comparison)
    if args.report is not None:
        path = Path(args.report)
        path = path if path.suffix == ".html" else path / REPORT_FILE
        write_text(path, html_report(comparison, bundle, faults, list(warnings.values())))
    if args.json:
        print(json.dumps(comparison.to_dict() | {"shortfalls": faults, "unfit": warnings}))
    else:
        print("\n".join([table(comparison), *warnings.values()]))
    if faults:
        raise ExportError(f"too far from {comparison.reference.name}: {'; '.join(faults)}")


def push(args: argparse.Namespace) -> None:
    """Upload, and say what was sent."""
    from export import hub

    pushed = hub.push(
        args.bundle,
        args.repo,
        private=args.private,
        revision=args.revision,
        license_id=args.license,
        base_model=args.base_model,
    )
    sent = f"{len(pushed.uploaded)} files sent ({pushed.uploaded_bytes / 1e6:.1f} MB), {len(pushed.unchanged)} there"
    print(json.dumps(pushed.to_dict()) if args.json else f"{sent}\n{pushed.url} at {pushed.revision}: {pushed.commit}")


def inspect(args: argparse.Namespace) -> None:
    """The manifest, checked against the files, and the sampling defaults of the bundle."""
    bundle = Bundle.open(args.bundle)
    manifest = read_manifest(bundle.folder)
    for precision in bundle.precisions:
        bundle.model_file(precision)  # of a bundle on the Hub, a graph is downloaded when it is asked for
    check_files(bundle.folder, manifest)
    if args.json:
        options = stored_defaults(bundle.generation_defaults)
        print(json.dumps(manifest | {"sampling_defaults": {"file": GENERATION_CONFIG, "options": options}}))
    else:
        print(describe(manifest, bundle.generation_defaults))


def _compare(
    bundle: Bundle, reference: Reference | None, text: str | None, args: argparse.Namespace, *, details: bool = False
) -> Comparison:
    from export.comparison.compare import compare

    options: dict[str, Any] = {"window": args.window, "threads": args.threads, "details": details}
    if text is not None:
        options |= {"token_ids": Tokenizer(bundle).encode(text), "text": Path(args.text).name}
    return compare(bundle, reference, **options)


def _torch_reference(checkpoint: str | Path) -> Reference:
    try:
        from export.comparison.torch_reference import TorchReference
        from model import load_checkpoint
    except ModuleNotFoundError as error:
        raise ExportError(
            f"{error.name} is not installed, which a checkpoint needs: pip install -r requirements.txt; "
            "or compare the precisions with each other, without --checkpoint"
        ) from None
    return TorchReference(load_checkpoint(checkpoint))


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
