"""Whether onnxruntime must be told to multiply 8-bit integers exactly on this CPU.

x86 CPUs without VNNI add two products of 8 bits in 16, which overflow. The option that prevents it costs a CPU with
VNNI, which adds in 32 bits, a third of its speed (docs/decisions/0007).
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
OPTION = "session.x64quantprecision"
# For 512 and for 256 bits.
VNNI_FLAGS = {"avx512_vnni", "avx_vnni"}
ARM_MACHINES = {"arm64", "aarch64"}


def exact_product_options() -> dict[str, str]:
    """Session entries under which products of 8-bit integers are exact here: one, or none where they are anyway."""
    return {} if _is_exact(CPU_INFO, platform.machine().lower()) else {OPTION: "1"}


@cache
def _is_exact(cpu_info: Path, machine: str) -> bool:
    """Whether products are exact without being asked for; False where that is not known."""
    if machine in ARM_MACHINES:
        return True
    try:
        lines = cpu_info.read_text().splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return not VNNI_FLAGS.isdisjoint(flags.split())
