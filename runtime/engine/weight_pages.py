"""Giving back the pages of a weight file that onnxruntime has copied.

It maps the file and packs most weights into an order of its own. The pages that it has read stay resident, for nothing:
of the vocabulary table, which stays in the file as well, a step needs one row.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
from pathlib import Path

import numpy as np

MAPS, PAGE_MAP = Path("/proc/self/maps"), Path("/proc/self/pagemap")
# 7f05357fc000-7f05357fe000 rw-p 08965000 fe:00 5335275   /path of the file
PRIVATE_FILE_MAP = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ...p \S+ \S+ \S+ +(/.*)")
# Bits of an entry of the page map, uint64 [pages] (Linux, admin-guide/mm/pagemap): whether a page is in memory or in
# swap, and whether it is still the file's, which it is no more once somebody has written to it.
PRESENT, SWAPPED, FROM_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))


def release_weight_pages(folder: Path) -> None:
    """Let go of the resident pages of files in a folder that are mapped and unchanged; a reader gets them back.

    Does nothing where the system has no list of maps; it is Linux's.
    """
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if advice is None or not MAPS.exists() or not PAGE_MAP.exists():
        return
    prefix, libc = f"{folder.resolve()}{os.sep}", ctypes.CDLL(None)
    with PAGE_MAP.open("rb", buffering=0) as page_map:
        for line in MAPS.read_text().splitlines():
            match = PRIVATE_FILE_MAP.fullmatch(line)
            if match is None or not match[3].startswith(prefix):
                continue
            start, end = int(match[1], 16), int(match[2], 16)
            page_map.seek(start // mmap.PAGESIZE * PRESENT.itemsize)
            pages = np.frombuffer(page_map.read((end - start) // mmap.PAGESIZE * PRESENT.itemsize), np.uint64)
            if not np.any((pages & (PRESENT | SWAPPED) != 0) & (pages & FROM_FILE == 0)):
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), ctypes.c_int(advice))
