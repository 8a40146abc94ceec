"""Blocks of a file: together they are its lines, whatever the file looks like."""

from __future__ import annotations

import pytest

from runtime.batch.blocks import read_block, split
from runtime.batch.reading import open_input

TEXT = '\ufeff{"a": 1}\n\n{"a": 2}\r\n  \nnot json\n{"a": "\u2028"}\n{"a": 5}'


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("first", [0, 1, 4, 5])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_blocks_are_the_lines_from_the_first_on(tmp_path, size, first, kind) -> None:
    path = tmp_path / f"in.{kind}"
    if kind == "jsonl":
        path.write_bytes(TEXT.encode())
    else:
        pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq
        from pyarrow import table

        pq.write_table(table({"a": list(range(5))}), path)
    with open_input(str(path)) as source:
        expected = list(source.lines(first))
    blocks = list(split(str(path), first, size))
    assert [line for block in blocks for line in read_block(str(path), block)] == expected
    assert [len(list(read_block(str(path), block))) for block in blocks[:-1]] == [size] * (len(blocks) - 1)


def test_an_empty_file_has_no_blocks(tmp_path) -> None:
    (tmp_path / "in.jsonl").write_text("\n")
    assert list(split(str(tmp_path / "in.jsonl"), 0, 4)) == []
