"""What a deployment pays for a precision: seconds until it is loaded, and the peak of its memory.

Measured in a process of its own, which holds nothing but the runtime:
`python -m export.comparison.footprint FOLDER PRECISION PROMPT_TOKENS NEW_TOKENS [THREADS]` prints one JSON object. The
peak includes Python, NumPy and onnxruntime.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from export.errors import ExportError
from runtime.bundle import Bundle
from runtime.engine.session import DecoderSession
from runtime.generation.generate import generate_step

REPOSITORY = Path(__file__).resolve().parents[2]
PROC_STATUS = Path("/proc/self/status")
# Linux counts ru_maxrss in KiB, macOS in bytes.
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Footprint:
    """Of one precision; the peak is that of a process that loads it, runs a prompt and decodes."""

    load_seconds: float
    peak_memory_bytes: int


def measure_footprint(
    bundle: Bundle, precision: str, *, prompt_tokens: int, new_tokens: int, threads: int | None = None
) -> Footprint:
    """Measure in a fresh process. Raises ExportError where it fails."""
    sizes = [str(prompt_tokens), str(new_tokens), *([] if threads is None else [str(threads)])]
    done = subprocess.run(  # noqa: S603 - our own module, with arguments of ours
        [sys.executable, "-m", "export.comparison.footprint", str(bundle.folder.resolve()), precision, *sizes],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ExportError(f"the memory of {precision} could not be measured: {reason}")
    return Footprint(**json.loads(done.stdout))


def _run_here(folder: str, precision: str, prompt_tokens: int, new_tokens: int, threads: int | None) -> Footprint:
    bundle = Bundle.open(Path(folder))
    started = time.perf_counter()
    session = DecoderSession(bundle, precision, threads=threads)
    loaded = time.perf_counter()
    list(generate_step(session, [0] * prompt_tokens, max_new_tokens=new_tokens, stop_token_ids=()))
    return Footprint(loaded - started, _peak_bytes())


def _peak_bytes() -> int:
    """The peak of this program alone: ru_maxrss also remembers the process that started it, where there is /proc."""
    if PROC_STATUS.is_file():
        for line in PROC_STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT


if __name__ == "__main__":
    folder, precision, *sizes = sys.argv[1:]
    prompt_tokens, new_tokens, threads = [*map(int, sizes), None][:3]
    print(json.dumps(vars(_run_here(folder, precision, prompt_tokens, new_tokens, threads))))  # noqa: T201
