"""The contents of run.json: what was trained, on which data, by which code, and on which machine."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from model.parameters import parameter_counts
from train.precision import choose_precision
from train.run.run import Run

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("torch", "numpy", "tokenizers", "safetensors")


def run_record(run: Run) -> dict[str, Any]:
    """The record of a run that is about to start."""
    corpus = run.corpus
    return {
        "recipe": run.recipe.to_dict(),
        "parameters": parameter_counts(run.model.config),
        "data": {
            "sources": {source.name: source.train_tokens for source in corpus.sources},
            "fingerprint": corpus.fingerprint(),
            "train_tokens": corpus.train_tokens,
            "held_out_tokens": corpus.held_out_tokens,
            "true_loss_nats_per_token": corpus.true_loss,
        },
        "sessions": [session_record(run)],
    }


def session_record(run: Run) -> dict[str, Any]:
    """When, where and with which code a run starts or resumes."""
    device = run.ranks.device
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "from_step": run.step,
        "git": git_state(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "device": device_name(device),
        "precision": choose_precision(run.recipe.machine.precision, device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "world_size": run.ranks.world_size,
        "machine": run.recipe.to_dict()["machine"],
    }


def device_name(device: torch.device) -> str:
    """What a device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def git_state() -> dict[str, Any] | None:
    """The commit of this code, and how many tracked files differ from it; None outside a git checkout."""
    try:
        commit, changes = (
            subprocess.run(  # noqa: S603 - no input of a user's
                ["git", *arguments],  # noqa: S607 - whichever git there is
                cwd=REPOSITORY,
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            ).stdout.strip()
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed_files": len(changes.splitlines())}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
