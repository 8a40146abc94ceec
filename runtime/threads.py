"""How many threads matrix products should use: as many as there are physical cores for us, and no more.

Knows no onnxruntime.
"""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
CPU_TOPOLOGY = Path("/sys/devices/system/cpu")


def default_threads() -> int:
    """The least of: CPUs that this process may run on, physical cores among them, and the container's quota."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    limits = [len(allowed), _physical_cores(allowed)]
    quota = _cgroup_quota()
    if quota is not None:
        limits.append(max(1, int(quota)))
    return max(1, min(limits))


def _physical_cores(cpus: set[int]) -> int:
    """Cores among the CPUs: two hyper-threads share one set of multipliers, so the second adds nothing but noise."""
    siblings = set()
    for cpu in cpus:
        path = CPU_TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        try:
            siblings.add(path.read_text())
        except OSError:
            siblings.add(str(cpu))
    return len(siblings)


def _cgroup_quota() -> float | None:
    """CPUs that the container may use at once (`docker run --cpus`), by cgroup version 2 or 1."""
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us = int((CGROUP / "cpu" / "cpu.cfs_quota_us").read_text())
        period_us = int((CGROUP / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None
