"""An environment for each engine under .compat/: a venv, or a folder with node_modules. Made once a set of packages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / ".compat"
PROGRAMS = Path(__file__).parent / "programs"


class NotAvailableError(RuntimeError):
    """An engine cannot be set up here; the message says why."""


@dataclass(frozen=True)
class Engine:
    """A line of engines.toml.

    Attributes:
        name: the table's row.
        program: its file in programs/.
        environment: folder under .compat/; None for ours.
        packages: what pip (or, for a JavaScript program, npm) installs there.
        portable: whether it gets the bundle of standard operators.
        options: further arguments of its program.
        known: precision -> why its cell is not ok, where that is understood and not ours to change.
    """

    name: str
    program: str
    environment: str | None = None
    packages: tuple[str, ...] = ()
    portable: bool = False
    options: tuple[str, ...] = ()
    known: Mapping[str, str] = field(default_factory=dict)

    @property
    def npm_folder(self) -> Path | None:
        """Where its node_modules are, if it is written in JavaScript."""
        is_npm = any(package.startswith("@") for package in self.packages)
        return FOLDER / str(self.environment) if is_npm else None

    def command(self, python: str | None = None) -> list[str]:
        """How to start its program; `python` replaces the environment's own."""
        program = str(PROGRAMS / self.program)
        if self.program.endswith(".mjs"):
            return ["node", program]
        own = self.environment is None or self.npm_folder is not None
        return [python or (sys.executable if own else str(FOLDER / str(self.environment) / "bin" / "python")), program]

    def variables(self) -> dict[str, str]:
        """The process's environment variables: the repository to import from for ours, the packages for npm's."""
        added = {"HF_HUB_OFFLINE": "1"}
        if self.environment is None:
            added["PYTHONPATH"] = str(REPOSITORY)
        if self.npm_folder is not None:
            added["NODE_FOLDER"] = str(self.npm_folder)
        return {**os.environ, **added}


def set_up(engine: Engine) -> None:
    """Make the environment, unless it is there with the same packages.

    Raises:
        NotAvailableError: a tool is missing, or the packages cannot be installed.
    """
    if engine.environment is None:
        return
    folder = FOLDER / engine.environment
    stamp = folder / "packages.json"
    wanted = json.dumps(engine.packages)
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    folder.mkdir(parents=True, exist_ok=True)
    print(f"setting up {engine.name}", file=sys.stderr)
    if engine.npm_folder is not None:
        if shutil.which("npm") is None:
            raise NotAvailableError("there is no npm")
        # No scripts: onnxruntime-node's would fetch a GPU library; the CPU's is in the package.
        _run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", folder, *engine.packages])
    else:
        _run([sys.executable, "-m", "venv", folder])
        _run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", *engine.packages])
    stamp.write_text(wanted)


def _run(command: list[str | Path]) -> None:
    result = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise NotAvailableError(f"{Path(command[0]).name} cannot install it: {last}")
