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
    """What is allocated between making this and `take` may lie in huge pages.

    Args:
        total_bytes: how much is going to be allocated, about; few bytes are left as they are.
    """

    def __init__(self, total_bytes: int) -> None:
        self._page_bytes = _page_bytes() if total_bytes >= SMALLEST_BYTES else None
        self._before = _anonymous() if self._page_bytes else []

    def take_later(self) -> None:
        """`take` in the background, after `DELAY_SECONDS`."""
        if self._page_bytes:
            timer = threading.Timer(DELAY_SECONDS, self.take)
            timer.daemon = True
            timer.start()

    def take(self) -> None:
        """Exchange pages, where they are new and wholly in use.

        Who frees that memory meanwhile loses nothing: such advice about somebody else's pages changes no content.
        """
        if not self._page_bytes:
            return
        with suppress(OSError):  # a system that hides its page map
            for start in list(_filled(self._before, self._page_bytes)):
                advise(start, start + self._page_bytes, mmap.MADV_HUGEPAGE)
                advise(start, start + self._page_bytes, COLLAPSE)


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


def _filled(before: Sequence[MemoryMap], page_bytes: int) -> Iterator[int]:
    """Addresses of places for a huge page that are new, and where every small page is in use: none costs memory."""
    for found in _anonymous():
        start, end = -(-found.start // page_bytes) * page_bytes, found.end // page_bytes * page_bytes
        if end <= start or any(old.start <= start and end <= old.end for old in before):
            continue
        is_filled = (page_entries(start, end) & PRESENT != 0).reshape(-1, page_bytes // mmap.PAGESIZE).all(1)
        for old in before:
            is_filled[max(0, (old.start - start) // page_bytes) : max(0, -(-(old.end - start) // page_bytes))] = False
        yield from (start + page_bytes * np.flatnonzero(is_filled)).tolist()
