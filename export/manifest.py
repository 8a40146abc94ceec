"""A bundle's manifest: every file's size and SHA-256, read, checked and shown. Opens no graph and needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.errors import ExportError
from runtime.bundle import MANIFEST, read_json
from runtime.generation_config import FILE as GENERATION_CONFIG
from runtime.generation_config import stored_defaults


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle of ours. Raises ExportError for a bundle without one."""
    manifest = read_json(folder / MANIFEST)
    if not manifest.get("files"):
        raise ExportError(f"{folder} has no {MANIFEST} of SmolText's")
    return manifest


def file_entries(folder: Path) -> dict[str, dict[str, Any]]:
    """File name -> bytes and sha256, for everything but the manifest itself."""
    entries = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.name != MANIFEST:
            entries[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    return entries


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Raises ExportError, naming them, where files are not what the manifest says."""
    changed = changed_files(folder, manifest)
    if changed:
        raise ExportError(f"{folder}: {', '.join(changed)} changed since the export: the SHA-256 differs")


def changed_files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Names of the files whose SHA-256 is not the manifest's."""
    return [name for name, entry in manifest["files"].items() if _sha256(folder / name) != entry["sha256"]]


def describe(manifest: dict[str, Any], defaults: Mapping[str, Any]) -> str:
    """The manifest for a person, and the sampling defaults that the bundle brings."""
    # Bundles of older versions have none.
    called = f"{manifest['name']}, " if manifest.get("name") else ""
    lines = [f"{called}from {manifest['source']}, {manifest['parameters']['total']:,} parameters; all files are whole"]
    names = max(map(len, manifest["precisions"]))
    files = max(len(entry["file"]) for entry in manifest["precisions"].values())
    for name, entry in manifest["precisions"].items():
        share = f"{entry['int8_weight_fraction']:.1%} of the weights read are int8"
        lines.append(f"{name:<{names}} {entry['file']:<{files}} {entry['file_bytes'] / 1e6:>8.1f} MB  {share}")
    for done, precisions in _foldings(manifest["precisions"]).items():
        lines.append(f"{', '.join(precisions)}: {done}")
    stored = ", ".join(f"{name} {value}" for name, value in stored_defaults(defaults).items())
    lines.append(
        f"sampling defaults in {GENERATION_CONFIG}: {stored}; the runtime's own for the rest"
        if stored
        else f"no sampling defaults in {GENERATION_CONFIG}: the runtime's own count"
    )
    return "\n".join(lines)


def _foldings(precisions: Mapping[str, Any]) -> dict[str, list[str]]:
    """What was done to weights before they were stored -> the precisions that it was done for."""
    found: dict[str, list[str]] = {}
    for name, entry in precisions.items():
        if entry.get("folded"):
            found.setdefault("; ".join(entry["folded"]), []).append(name)
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
