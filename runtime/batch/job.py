"""What the results of a batch depend on, so that an output is continued by the command that began it and no other."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runtime.batch.output import BatchOutput, OutputFile, StandardOutput
from runtime.batch.parquet_input import ParquetInput, is_parquet, require_pyarrow
from runtime.batch.parquet_output import write_parquet
from runtime.batch.reading import BatchInput
from runtime.bundle import MANIFEST, Bundle
from runtime.errors import BatchError
from runtime.sampling.options import DefaultLength, SamplingOptions


def describe_job(source: BatchInput, bundle: Bundle, precision: str, sampling: SamplingOptions) -> dict[str, Any]:
    """The job as JSON values. Threads and the batch size are left out: they change no token in int8 and int8-kv8.

    Raises:
        OptionError: the bundle has no such precision.
    """
    graph = bundle.model_file(precision)
    options = asdict(sampling)
    options["logit_bias"] = {str(token_id): str(bias) for token_id, bias in sampling.logit_bias.items()}
    for name in ("stop_strings", "stop_token_ids"):
        options[name] = None if options[name] is None else list(options[name])
    for name, value in options.items():  # cut where there is no room, unlike the same number on the command line
        if isinstance(value, DefaultLength):
            options[name] = {"default": value, "counts_prompt": value.counts_prompt}
    return {
        "input_sha256": source.sha256,
        "model_sha256": _model_sha256(bundle, graph),
        "precision": precision,
        "sampling": options,
    }


def open_output(
    out: str | None, source_path: str, source: BatchInput, job: dict[str, Any], *, overwrite: bool
) -> BatchOutput:
    """Where the results go: a file, or stdout without one.

    Raises:
        BatchError: see OutputFile, or the output is the input.
        MissingDependencyError: Parquet without pyarrow.
    """
    if out is None:
        return StandardOutput()
    path = Path(out)
    if path.exists() and Path(source_path).exists() and path.samefile(source_path):
        raise BatchError(f"{out} is the input: choose another --out")
    if not is_parquet(out):
        return OutputFile(path, job, overwrite=overwrite)
    require_pyarrow()
    rows_of = source if isinstance(source, ParquetInput) else None

    def convert(results: Path, parquet: Path) -> None:
        write_parquet(results, parquet, rows_of=rows_of)

    return OutputFile(path, job, overwrite=overwrite, convert=convert)


def _model_sha256(bundle: Bundle, graph: Path) -> str:
    """Of the manifest, which has a hash of every file; of config and graph for a bundle without one."""
    digest = hashlib.sha256()
    path = bundle.folder / MANIFEST
    for file in [path] if path.is_file() else [bundle.folder / "config.json", graph]:
        digest.update(file.read_bytes())
    return digest.hexdigest()
