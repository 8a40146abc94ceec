"""Weights lie in huge pages where the system gives them to who asks; nothing else is touched, no content changes."""

from __future__ import annotations

import mmap
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime.engine import huge_pages, process_maps
from runtime.engine.huge_pages import SMALLEST_BYTES, HugePages
from runtime.engine.process_maps import PRESENT, MemoryMap, memory_maps, page_entries
from tests.runtime.engine.test_memory import resident_bytes

SIZE = 32 * 2**20


def huge_bytes() -> int:
    return 1024 * int(re.search(r"AnonHugePages:\s+(\d+)", Path("/proc/self/smaps_rollup").read_text())[1])


def allocate(*, filled: bool = True) -> np.ndarray:
    array = np.frombuffer(mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    if filled:
        array[:] = np.arange(SIZE, dtype=np.uint32).astype(np.uint8)
    return array


def can_exchange() -> bool:
    if huge_pages._page_bytes() is None:
        return False
    array = allocate()
    start = -(-array.ctypes.data // 2**21) * 2**21
    huge_pages.advise(start, start + 2**21, mmap.MADV_HUGEPAGE)
    return huge_pages.advise(start, start + 2**21, huge_pages.COLLAPSE)


@pytest.fixture
def exchanges() -> None:
    if not can_exchange():
        pytest.skip("this system does not give huge pages to who asks (Linux 6.1, transparent_hugepage=madvise)")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(huge_pages, "SETTINGS", tmp_path)
    (tmp_path / "hpage_pmd_size").write_text("2097152\n")
    return tmp_path


def test_what_is_new_and_filled_lies_in_huge_pages_and_is_unchanged(exchanges) -> None:
    old = allocate()
    before_huge, before_resident = huge_bytes(), resident_bytes()
    with HugePages(SIZE) as subject:
        new = allocate()
    later = allocate()
    assert huge_bytes() - before_huge < 2**22
    before_resident += SIZE
    subject.take()
    assert SIZE - 3 * 2**21 <= huge_bytes() - before_huge <= SIZE + 2**22
    assert resident_bytes() - before_resident < SIZE + 2**22
    assert np.array_equal(new, old)
    assert np.array_equal(new, later)
    after = huge_bytes()
    subject.take()
    assert huge_bytes() == after


def test_what_is_not_wholly_in_use_takes_no_more_memory(exchanges) -> None:
    with HugePages(SIZE) as subject:
        array = allocate(filled=False)
    array[:: 2 * mmap.PAGESIZE] = 1
    before = resident_bytes()
    subject.take()
    assert resident_bytes() - before < 2**21


def test_it_is_done_later_in_the_background(exchanges, monkeypatch) -> None:
    monkeypatch.setattr(huge_pages, "DELAY_SECONDS", 0.1)
    with HugePages(SIZE) as subject:
        array = allocate()
    before = huge_bytes()
    subject.take_later()
    assert huge_bytes() == before
    assert array[-1] == 255
    ends = time.monotonic() + 20
    while huge_bytes() - before < SIZE - 3 * 2**21:
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("enabled", "total_bytes"),
    [
        ("[always] madvise never", SIZE),
        ("always madvise [never]", SIZE),
        (None, SIZE),
        ("always [madvise] never", SMALLEST_BYTES - 1),
    ],
)
def test_nothing_is_asked_for_where_it_is_given_anyway_or_never_or_not_worth_it(
    settings, enabled, total_bytes, monkeypatch
) -> None:
    if enabled is not None:
        (settings / "enabled").write_text(f"{enabled}\n")
    monkeypatch.setattr(huge_pages, "advise", lambda *_: pytest.fail("it asked"))
    with HugePages(total_bytes) as subject:
        array = allocate()
    subject.take()
    subject.take_later()
    assert array[-1] == 255


def test_a_system_that_hides_its_page_map_is_left_alone(settings, monkeypatch, tmp_path) -> None:
    (settings / "enabled").write_text("always [madvise] never\n")
    monkeypatch.setattr(process_maps, "PAGE_MAP", tmp_path / "absent")
    with HugePages(SIZE) as subject:
        array = allocate()
    subject.take()
    assert array[-1] == 255


@pytest.mark.parametrize(
    ("others", "left"),
    [
        ([], [(10, 20), (30, 40)]),
        ([(0, 10), (20, 30), (40, 50)], [(10, 20), (30, 40)]),
        ([(10, 20)], [(30, 40)]),
        ([(5, 12), (14, 15), (18, 33)], [(12, 14), (15, 18), (33, 40)]),
        ([(0, 50)], []),
    ],
)
def test_what_was_there_is_left_out(others, left) -> None:
    maps, others = ([MemoryMap(*ends, "rw-p", "") for ends in each] for each in ([(10, 20), (30, 40)], others))
    assert list(huge_pages._without(maps, others)) == left


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="only Linux lists a process's maps")
def test_maps_and_their_pages_are_found() -> None:
    array = allocate(filled=False)
    array[:SIZE:2] = 1
    address = array.ctypes.data
    found = next(entry for entry in memory_maps() if entry.start <= address < entry.end)
    assert (found.permissions, found.path) == ("rw-p", "")
    assert np.all(page_entries(address, address + SIZE) & PRESENT)
    assert any("libc" in entry.path for entry in memory_maps())
