"""How many threads matrix products should use: as many as there are physical cores for us, and no more."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PROC_CGROUP = Path("/proc/self/cgroup")
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
    """CPUs that the container may use at once (`docker run --cpus`), by cgroup version 2 or 1.

    A group of version 2 may lie in others, each with a limit of its own: the least counts.
    """
    limits = [limit for group in _cgroup_v2_groups() if (limit := _cpu_max(group / "cpu.max")) is not None]
    if limits:
        return min(limits)
    try:
        quota_us = int((CGROUP / "cpu" / "cpu.cfs_quota_us").read_text())
        period_us = int((CGROUP / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None


def _cgroup_v2_groups() -> list[Path]:
    """Our own group's folder and those around it. Inside a container the root is often all that can be seen."""
    try:
        lines = PROC_CGROUP.read_text().splitlines()
    except OSError:
        lines = []
    paths = [Path(line.removeprefix("0::/")) for line in lines if line.startswith("0::/")]
    own = paths[0] if paths and ".." not in paths[0].parts else Path()
    return [CGROUP / own, *(CGROUP / parent for parent in own.parents)]


def _cpu_max(path: Path) -> float | None:
    try:
        quota, period = path.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
