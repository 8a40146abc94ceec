"""Giving back the pages of a weight file that onnxruntime has copied.

It maps the file and packs most weights into an order of its own. The pages that it has read stay resident, for nothing:
of the vocabulary table, which stays in the file as well, a step needs one row.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from runtime.engine.process_maps import FROM_FILE, PRESENT, SWAPPED, advise, memory_maps, page_entries


def release_weight_pages(folder: Path) -> None:
    """Let go of the resident pages of files in a folder that are mapped and unchanged; a reader gets them back.

    Does nothing where the system has no list of maps, which is Linux's, or hides it.
    """
    advice, prefix = getattr(mmap, "MADV_DONTNEED", None), f"{folder.resolve()}{os.sep}"
    if advice is None:
        return
    with suppress(OSError):
        for found in memory_maps():
            if not found.path.startswith(prefix) or not found.permissions.endswith("p"):
                continue
            pages = page_entries(found.start, found.end)
            if not np.any((pages & (PRESENT | SWAPPED) != 0) & (pages & FROM_FILE == 0)):
                advise(found.start, found.end, advice)
