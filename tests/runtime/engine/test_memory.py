"""The default bound of caches, and memory that comes back."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from runtime.engine import memory


def resident_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def test_the_default_is_half_of_what_is_free_here_or_in_the_container(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 8000 kB\nMemAvailable:    4000 kB\n")
    (tmp_path / "max").write_text("max\n")
    monkeypatch.setattr(memory, "MEMORY_INFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP_LIMITS", (tmp_path / "absent", tmp_path / "max"))
    assert memory.default_cache_bytes() == 2000 * 1024
    (tmp_path / "max").write_text("1048576\n")
    assert memory.default_cache_bytes() == 524288
    monkeypatch.setattr(memory, "MEMORY_INFO", tmp_path / "absent")
    (tmp_path / "max").write_text("max\n")
    assert memory.default_cache_bytes() == memory.UNKNOWN_BYTES // 2


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="this system gives no pages back")
def test_pages_are_taken_when_written_and_given_back():
    array, pages = memory.lazy_zeros((4, 16 * 2**20), np.int8)
    before = resident_bytes()
    array[1] = 7
    assert resident_bytes() - before > 15 * 2**20
    memory.release_pages(pages, 16 * 2**20, 32 * 2**20)
    assert resident_bytes() - before < 2 * 2**20
    assert array[1, 5] == 0
    array[0, -1], array[2, 0] = 1, 2
    memory.release_pages(pages, 16 * 2**20 - 100, 32 * 2**20 + 100)  # parts of pages belong to the neighbours
    assert (array[0, -1], array[2, 0]) == (1, 2)
