"""Pages of a weight file that nobody needs take no memory, and come back when they are read."""

from __future__ import annotations

import mmap

import pytest

from runtime.engine import process_maps
from runtime.engine.weight_pages import release_weight_pages
from tests.runtime.engine.test_memory import resident_bytes

MEGABYTE = 2**20

pytestmark = pytest.mark.skipif(not process_maps.PAGE_MAP.exists(), reason="only Linux lists a process's maps")


def test_pages_of_the_folder_are_given_back_and_read_again(tmp_path):
    content = bytes(range(256)) * (16 * MEGABYTE // 256)
    (tmp_path / "weights in parts.onnx_data").write_bytes(content)
    with (tmp_path / "weights in parts.onnx_data").open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    before = resident_bytes()
    total = sum(pages[:: mmap.PAGESIZE])
    assert resident_bytes() - before > 14 * MEGABYTE
    release_weight_pages(tmp_path)
    assert resident_bytes() - before < 2 * MEGABYTE
    assert sum(pages[:: mmap.PAGESIZE]) == total
    pages.close()


def test_a_map_that_was_written_is_left_alone(tmp_path):
    (tmp_path / "weights").write_bytes(bytes(mmap.PAGESIZE))
    with (tmp_path / "weights").open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    pages[0] = 7
    release_weight_pages(tmp_path)
    assert pages[0] == 7
    pages.close()


def test_a_system_that_hides_its_page_map_keeps_the_pages(tmp_path, monkeypatch):
    (tmp_path / "weights").write_bytes(bytes(mmap.PAGESIZE))
    with (tmp_path / "weights").open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    monkeypatch.setattr(process_maps, "PAGE_MAP", tmp_path / "absent")
    release_weight_pages(tmp_path)
    assert pages[0] == 0
    pages.close()
