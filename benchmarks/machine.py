"""What a measurement ran on: figures of different kinds of CPU are not to be mixed."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path

from runtime.engine.exact_products import CPU_INFO

# A flag of Linux's and the words that say it, the best first: the first one that a CPU has names its kind.
KINDS = (
    ("amx_int8", "AMX"),
    ("avx512_vnni", "AVX512-VNNI"),
    ("avx_vnni", "AVX-VNNI"),
    ("avx512f", "AVX512 and no VNNI"),
    ("avx2", "AVX2 and no VNNI"),
)


@dataclass(frozen=True)
class Machine:
    """A CPU.

    Attributes:
        cpu: its maker's words.
        kind: the best of its instructions for products of 8-bit integers.
        cores: that this process may use.
    """

    cpu: str
    kind: str
    cores: int

    def line(self, bandwidths: list[float]) -> str:
        """One line: the machine, the day, and what its memory gave (bytes per second) in the rounds."""
        low, high = min(bandwidths) / 1e9, max(bandwidths) / 1e9
        return (
            f"{self.cpu}, {self.cores} cores, {self.kind}; memory {low:.0f} to {high:.0f} GB/s in the rounds; "
            f"{time.strftime('%Y-%m-%d')}"
        )


def this_machine(cores: int, cpu_info: Path = CPU_INFO) -> Machine:
    """The machine at hand; where its system tells little, what Python knows."""
    try:
        lines = [line.partition(":") for line in cpu_info.read_text().splitlines()]
    except OSError:
        return Machine(platform.processor() or platform.machine(), platform.machine(), cores)
    values = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    flags = values.get("flags", "").split()
    kind = next((words for flag, words in KINDS if flag in flags), platform.machine())
    return Machine(values.get("model name", platform.machine()), kind, cores)
