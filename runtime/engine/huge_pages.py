"""Huge pages for the weights that onnxruntime has packed.

A step reads all weights once, and the processor looks up the address of each page: pages of 2 MB instead of 4 kB spare
it most of that. Many systems give them only to who asks (`madvise`), and onnxruntime does not. Linux can exchange pages
that are filled, too; it takes milliseconds for each huge one, so only who runs for a while gets them (decision 26).
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np

from runtime.engine.process_maps import PRESENT, MemoryMap, advise, memory_maps, page_entries

SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
# Exchange now (Linux 6.1); Python's mmap doesn't know it yet. Older ones exchange over minutes what is marked.
COLLAPSE = 25
# Weights that take less lie within the processor's own list of addresses.
SMALLEST_BYTES = 16 * 2**20
# The exchange costs about a twentieth of such a time. A command that ends before pays nothing, the worst case is one
# that ends just after, and a server has it done before its first visitor.
DELAY_SECONDS = 5.0


class HugePages:
    """What is allocated within this context may lie in huge pages.

    Args:
        total_bytes: how much is going to be allocated, about; few bytes are left as they are.
    """

    def __init__(self, total_bytes: int) -> None:
        self._page_bytes = _page_bytes() if total_bytes >= SMALLEST_BYTES else None
        self._before: list[MemoryMap] = []
        self._new: list[tuple[int, int]] = []

    def __enter__(self) -> Self:
        """Allocation begins."""
        if self._page_bytes:
            self._before = _anonymous()
        return self

    def __exit__(self, *exception: object) -> None:
        """Allocation has ended."""
        if self._page_bytes:
            self._new = list(_without(_anonymous(), self._before))

    def take_later(self) -> None:
        """`take` in the background, after `DELAY_SECONDS`."""
        if self._new:
            timer = threading.Timer(DELAY_SECONDS, self.take)
            timer.daemon = True
            timer.start()

    def take(self) -> None:
        """Exchange pages where all small ones in place of a huge one are in use, so that none costs memory.

        Who frees that memory meanwhile loses nothing: such advice about somebody else's pages changes no content.
        """
        if not self._page_bytes:
            return
        with suppress(OSError):  # a system that hides its page map
            for start, end in self._new:
                for place in _filled(start, end, self._page_bytes):
                    advise(place, place + self._page_bytes, mmap.MADV_HUGEPAGE)
                    advise(place, place + self._page_bytes, COLLAPSE)


def _page_bytes() -> int | None:
    """The size of a huge page; None where they are not to be had, or nobody needs to ask for them."""
    try:
        is_on_demand = "[madvise]" in (SETTINGS / "enabled").read_text()
        return int((SETTINGS / "hpage_pmd_size").read_text()) if is_on_demand else None
    except (OSError, ValueError):
        return None


def _anonymous() -> list[MemoryMap]:
    """Memory of no file that is this process's alone."""
    return [
        found for found in memory_maps() if found.permissions == "rw-p" and not found.path.startswith(("/", "[stack"))
    ]


def _without(maps: Sequence[MemoryMap], others: Sequence[MemoryMap]) -> Iterator[tuple[int, int]]:
    """From where to where maps go beside others; both are in the order of their addresses."""
    for found in maps:
        start = found.start
        for other in others:
            if other.end <= start or other.start >= found.end:
                continue
            if other.start > start:
                yield start, other.start
            start = other.end
        if start < found.end:
            yield start, found.end


def _filled(start: int, end: int, page_bytes: int) -> list[int]:
    """Where huge pages could begin between two addresses, all of whose small pages are there."""
    start, end = -(-start // page_bytes) * page_bytes, end // page_bytes * page_bytes
    if end <= start:
        return []
    is_filled = (page_entries(start, end) & PRESENT != 0).reshape(-1, page_bytes // mmap.PAGESIZE).all(1)
    found: list[int] = (start + page_bytes * np.flatnonzero(is_filled)).tolist()
    return found
