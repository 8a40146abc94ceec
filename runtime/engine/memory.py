"""How much memory KV caches may take, and memory that costs nothing until it is written."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

MEMORY_INFO = Path("/proc/meminfo")
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
# Of the memory that is free now, what caches may take: the rest is for weights, activations and other programs.
SHARE = 0.5
UNKNOWN_BYTES = 4 * 2**30


def default_cache_bytes() -> int:
    """Half of the memory that this machine, or this container, has available now."""
    available = available_bytes()
    return int(SHARE * (UNKNOWN_BYTES if available is None else available))


def available_bytes() -> int | None:
    """The memory that this machine has available now, or the container's limit; None where neither is known."""
    known = [size for size in (_available_bytes(), _container_bytes()) if size is not None]
    return min(known, default=None)


def lazy_zeros(shape: Sequence[int], dtype: type[np.generic]) -> tuple[np.ndarray, mmap.mmap]:
    """An array of zeros whose pages take memory from their first write on, and the map behind it.

    Unlike `np.zeros`, it never asks for huge pages, each of which would be taken whole.
    """
    count = int(np.prod(shape))
    size = max(1, count * np.dtype(dtype).itemsize)
    if hasattr(mmap, "MAP_PRIVATE"):  # a shared map's pages would stay when they are given back
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    else:
        pages = mmap.mmap(-1, size)
    _advise(pages, "MADV_NOHUGEPAGE", 0, len(pages))
    return np.frombuffer(pages, dtype, count).reshape(shape), pages


def release_pages(pages: mmap.mmap, start: int, end: int) -> None:
    """Give the whole pages among the bytes start..end back to the system; they read as zeros afterwards."""
    first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        _advise(pages, "MADV_DONTNEED", first, last - first)


def _advise(pages: mmap.mmap, name: str, start: int, length: int) -> None:
    advice = getattr(mmap, name, None)  # what a system lacks only costs memory
    if advice is not None:
        pages.madvise(advice, start, length)


def _available_bytes() -> int | None:
    try:
        for line in MEMORY_INFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _container_bytes() -> int | None:
    for path in CGROUP_LIMITS:
        try:
            return int(path.read_text())
        except (OSError, ValueError):  # absent, or "max"
            continue
    return None
