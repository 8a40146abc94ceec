"""Parquet in and out: rows are lines, columns keep their types."""

from __future__ import annotations

import datetime as dt
import math
import sys

import pytest

from runtime.batch.lines import RESULT_KEYS
from tests.runtime.batch.files import read_lines, write_lines
from tests.runtime.files import fails

pa = pytest.importorskip("pyarrow", reason="requirements-extras.txt")
pq = pytest.importorskip("pyarrow.parquet")

OPTIONS = ["--seed", "3", "--max-new-tokens", "5"]
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture
def rows(tmp_path):
    columns = {
        "prompt": ["the", None, "a", None],
        "messages": [None, MESSAGES, None, None],
        "max_tokens": pa.array([3, None, None, None], pa.float64()),  # what pandas makes of integers with gaps
        "temperature": [None, 0.0, None, None],
        "stop": [None, None, ["q"], None],
        "when": [dt.datetime(2026, 1, day + 1, tzinfo=dt.UTC) for day in range(4)],
        "raw": [b"\xff"] * 4,
        "score": [math.nan, 1.5, math.inf, None],
    }
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_rows_give_what_the_same_lines_give(run, tiny_bundle, rows, tmp_path):
    lines = [
        {"prompt": "the", "max_tokens": 3},
        {"messages": MESSAGES, "temperature": 0},
        {"prompt": "a", "stop": "q"},
        {},
    ]
    expected = read_lines(run("batch", tiny_bundle, write_lines(tmp_path / "in.jsonl", lines), *OPTIONS)[1])
    code, out, _ = run("batch", tiny_bundle, rows, *OPTIONS)
    found = read_lines(out)
    assert code == 1
    for line, other in zip(found, expected, strict=True):
        assert {key: line.get(key) for key in RESULT_KEYS} == {key: other.get(key) for key in RESULT_KEYS}
    assert (found[0]["when"], found[0]["raw"], found[0]["score"]) == ("2026-01-01T00:00:00+00:00", "/w==", None)


def test_parquet_to_parquet_keeps_the_types_of_columns(run, tiny_bundle, rows, tmp_path):
    out = tmp_path / "out.parquet"
    code, _, err = run("batch", tiny_bundle, rows, *OPTIONS, "--out", out)
    assert (code, "1 of 4 lines failed" in err) == (1, True)
    before, after = pq.read_table(rows), pq.read_table(out)
    assert after.schema.names == [*before.schema.names, *RESULT_KEYS]
    assert after.select(before.schema.names).schema.equals(before.schema)
    assert after["when"].equals(before["when"])
    printed = read_lines(run("batch", tiny_bundle, rows, *OPTIONS)[1])
    for row, line in zip(after.to_pylist(), printed, strict=True):
        assert {key: row[key] for key in RESULT_KEYS} == {key: line.get(key) for key in RESULT_KEYS}


def test_json_lines_to_parquet_find_a_type_for_every_key(run, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("runtime.batch.parquet_output.ROWS_AT_ONCE", 1)
    lines = [
        {"prompt": "a", "id": 1, "mixed": 1, "deep": {"a": [1]}, "empty": {}, "top_logprobs": 1},
        {"prompt": "a", "id": 2.5, "mixed": "x", "deep": {"b": None}, "big": 10**30},
        {"prompt": "\ud800", "id": 2**60 + 1, "mixed": [1]},
        "nonsense",
    ]
    out = tmp_path / "out.parquet"
    run("batch", tiny_bundle, write_lines(tmp_path / "in.jsonl", lines * 2), *OPTIONS, "--out", out)
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == 8
    assert [row["id"] for row in rows[:4]] == [1.0, 2.5, 2.0**60, None]
    assert [row["mixed"] for row in rows[:4]] == ["1", '"x"', "[1]", None]
    assert (rows[1]["big"], rows[0]["empty"]) == (str(10**30), "{}")
    assert rows[0]["deep"] == {"a": [1], "b": None}
    assert len(rows[0]["logprobs"]) == rows[0]["new_tokens"]
    assert set(rows[0]["logprobs"][0]) == {"token_id", "text", "logprob", "top"}
    assert (rows[3]["line"], rows[3]["completion"]) == (4, None)
    assert rows[2]["prompt"] == "?"
    assert "not JSON" in rows[3]["error"]


def test_a_parquet_output_is_continued_and_finished_once(run, tiny_bundle, rows, tmp_path, monkeypatch):
    out = tmp_path / "out.parquet"
    run("batch", tiny_bundle, rows, *OPTIONS, "--out", tmp_path / "whole.parquet")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("runtime.batch.job.write_parquet", full)
        fails(run("batch", tiny_bundle, rows, *OPTIONS, "--out", out), "No space left", "keeps the 4 lines")
    partial = tmp_path / "out.parquet.partial"
    partial.write_bytes(b"".join(partial.read_bytes().splitlines(keepends=True)[:2]))
    assert run("batch", tiny_bundle, rows, *OPTIONS, "--out", out)[0] == 1
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    fails(run("batch", tiny_bundle, rows, *OPTIONS, "--out", out), "was finished before: 1 of 4 lines failed")
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.parquet", "out.parquet.job.json"]


def test_a_file_that_is_no_parquet_is_one_line(run, tiny_bundle, tmp_path):
    (tmp_path / "in.parquet").write_bytes(b'{"prompt": "a"}\n')
    fails(run("batch", tiny_bundle, tmp_path / "in.parquet"), "is cut off or is not Parquet")
    fails(run("batch", tiny_bundle, tmp_path / "nowhere.parquet"), "nowhere.parquet cannot be read: No such file")


def test_without_pyarrow_the_package_is_named(run, tiny_bundle, rows, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    fails(run("batch", tiny_bundle, rows), "Parquet files need pyarrow: pip install pyarrow")
    lines = write_lines(tmp_path / "in.jsonl", [{"prompt": "a"}])
    fails(run("batch", tiny_bundle, lines, "--out", tmp_path / "out.parquet"), "pip install pyarrow")
    assert run("batch", tiny_bundle, lines, *OPTIONS)[0] == 0
