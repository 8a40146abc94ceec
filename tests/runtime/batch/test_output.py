"""A file of results is there once it is whole, is continued by its own batch, and is safe from others."""

from __future__ import annotations

import fcntl
import json

import pytest

from runtime.batch.lines import LineResult
from runtime.batch.output import OutputFile
from runtime.errors import BatchError
from tests.runtime.batch.files import input_lines

JOB = {"input_sha256": "a", "model_sha256": "b", "precision": "int8", "sampling": {"temperature": 0.5}}
RESULTS = [
    LineResult(line, {"line": 2, "error": "bad"} if line.index == 1 else {"completion": "x"})
    for line in input_lines([{"id": index} for index in range(4)])
]
WHOLE = b"".join(result.to_bytes() for result in RESULTS)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.jsonl"


def write(out, results, *, finish=True, **options):
    with OutputFile(out, JOB, **options) as output:
        for result in results[output.done :]:
            output.write(result)
        if finish:
            output.finish()
        return output


def names(out):
    return sorted(path.name for path in out.parent.iterdir())


def test_a_file_is_there_once_it_is_whole(out):
    write(out, RESULTS[:3], finish=False)
    assert names(out) == ["out.jsonl.job.json", "out.jsonl.partial"]
    output = write(out, RESULTS)
    assert out.read_bytes() == WHOLE
    assert names(out) == ["out.jsonl", "out.jsonl.job.json"]
    assert (output.done, output.failed, output.is_finished) == (4, 1, True)


@pytest.mark.parametrize("cut", range(0, len(WHOLE) + 1, 7))
def test_a_file_that_was_cut_anywhere_is_continued(cut, out):
    write(out, RESULTS, finish=False)
    out.with_name("out.jsonl.partial").write_bytes(WHOLE[:cut])
    with OutputFile(out, JOB) as output:
        assert output.done == WHOLE[:cut].count(b"\n")
    assert write(out, RESULTS).failed == 1
    assert out.read_bytes() == WHOLE


def test_what_a_power_cut_leaves_is_dropped(out):
    write(out, RESULTS[:2], finish=False)
    with out.with_name("out.jsonl.partial").open("ab") as file:
        file.write(b"\0" * 50 + b"\n{}\n")
    write(out, RESULTS)
    assert out.read_bytes() == WHOLE


def test_a_finished_file_is_left_alone(out):
    write(out, RESULTS)
    before = out.stat().st_mtime_ns
    with OutputFile(out, JOB) as output:
        assert (output.done, output.failed, output.is_finished) == (4, 1, True)
    assert out.stat().st_mtime_ns == before
    assert names(out) == ["out.jsonl", "out.jsonl.job.json"]


@pytest.mark.parametrize("finish", [True, False])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input_sha256": "z"}, "another input:"),
        ({"model_sha256": "z"}, "another model:"),
        ({"precision": "fp32"}, "another precision:"),
        ({"sampling": {}, "input_sha256": "z"}, "another input and other options:"),
    ],
)
def test_another_batchs_file_is_refused_and_kept(change, words, finish, out):
    write(out, RESULTS, finish=finish)
    before = {name: (out.parent / name).read_bytes() for name in names(out)}
    with pytest.raises(BatchError, match=f"{words} choose another --out, or replace it with --overwrite"):
        OutputFile(out, JOB | change)
    assert {name: (out.parent / name).read_bytes() for name in names(out)} == before


@pytest.mark.parametrize("record", [None, "{", "[]", "{}", '{"job": {}}', '{"job": 1, "finished": null}'])
def test_a_file_that_nothing_tells_of_is_refused(record, out):
    out.write_bytes(b"precious")
    if record is not None:
        out.with_name("out.jsonl.job.json").write_text(record)
    with pytest.raises(BatchError, match="does not say which batch wrote it"):
        OutputFile(out, JOB)
    assert out.read_bytes() == b"precious"


@pytest.mark.parametrize("finish", [True, False])
def test_overwriting_begins_anew(finish, out):
    write(out, RESULTS, finish=finish)
    assert write(out, RESULTS[2:], overwrite=True).done == 2
    assert out.read_bytes() == b"".join(result.to_bytes() for result in RESULTS[2:])
    assert names(out) == ["out.jsonl", "out.jsonl.job.json"]


def test_overwriting_keeps_what_is_there_until_a_line_comes(out):
    out.write_bytes(b"precious")
    write(out, [], overwrite=True, finish=False)
    assert names(out) == ["out.jsonl"]
    write(out, RESULTS[:1], overwrite=True, finish=False)
    assert names(out) == ["out.jsonl.job.json", "out.jsonl.partial"]
    write(out, RESULTS)
    assert out.read_bytes() == WHOLE


def test_a_batch_without_lines_writes_an_empty_file(out):
    write(out, [])
    assert out.read_bytes() == b""
    with OutputFile(out, JOB) as output:
        assert output.is_finished


def test_a_run_that_wrote_nothing_leaves_nothing(out):
    write(out, [], finish=False)
    assert names(out) == []


def test_a_second_process_is_refused(out):
    write(out, RESULTS[:2], finish=False)
    with out.with_name("out.jsonl.partial").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BatchError, match="another process is writing"):
            OutputFile(out, JOB)
    write(out, RESULTS)
    assert out.read_bytes() == WHOLE


def test_a_place_that_cannot_be_written_is_one_error(tmp_path, out):
    with pytest.raises(BatchError, match="cannot be written: No such file or directory"):
        OutputFile(tmp_path / "nowhere" / "out.jsonl", JOB)
    with pytest.raises(BatchError, match="is not a file: choose another --out"):
        OutputFile(tmp_path, JOB, overwrite=True)


def test_a_record_tells_how_the_results_were_made(out):
    write(out, RESULTS)
    record = json.loads(out.with_name("out.jsonl.job.json").read_text())
    assert record == {"job": {"format": 1, **JOB}, "finished": {"lines": 4, "failed": 1}}
