"""The maps of this process's memory, and which of their pages are there, as Linux tells them."""

from __future__ import annotations

import ctypes
import mmap
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

MAPS, PAGE_MAP = Path("/proc/self/maps"), Path("/proc/self/pagemap")
# 7f05357fc000-7f05357fe000 rw-p 08965000 fe:00 5335275   /path of the file
LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \S+ *(.*)")
# Bits of an entry of the page map, uint64 (Linux, admin-guide/mm/pagemap): whether a page is in memory or in swap, and
# whether it is still the file's, which it is no more once somebody has written to it.
PRESENT, SWAPPED, FROM_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))


@dataclass(frozen=True)
class MemoryMap:
    """One of them.

    Attributes:
        start, end: addresses.
        permissions: as in `rw-p`; p is private.
        path: of the file; empty, or a name in brackets, where it is of none.
    """

    start: int
    end: int
    permissions: str
    path: str


def memory_maps() -> list[MemoryMap]:
    """All of them in the order of their addresses; none where the system has no list."""
    try:
        lines = MAPS.read_text().splitlines()
    except OSError:
        return []
    found = (LINE.fullmatch(line) for line in lines)
    return [MemoryMap(int(match[1], 16), int(match[2], 16), match[3], match[4]) for match in found if match]


def page_entries(start: int, end: int) -> np.ndarray:
    """What the page map says of each page between two addresses, uint64 [pages].

    Raises:
        OSError: the system has no page map.
    """
    with PAGE_MAP.open("rb", buffering=0) as page_map:
        page_map.seek(start // mmap.PAGESIZE * PRESENT.itemsize)
        return np.frombuffer(page_map.read((end - start) // mmap.PAGESIZE * PRESENT.itemsize), np.uint64)


def advise(start: int, end: int, advice: int) -> bool:
    """`madvise` of what lies between two addresses. Returns whether the system took it."""
    result: int = _libc().madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), ctypes.c_int(advice))
    return result == 0


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
