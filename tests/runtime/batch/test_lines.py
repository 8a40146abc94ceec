"""Lines in and out: JSON as RFC 8259 has it, copied as it was written."""

from __future__ import annotations

import json

import pytest

from runtime.batch.lines import InputLine, LineResult, parse_line
from runtime.batch.reading import JsonLinesInput, open_input
from runtime.errors import PromptError


def parsed(line: bytes) -> InputLine:
    return parse_line(line, number=7, index=3)


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt": "a", "n": 1.000000000000000000001, "big": 1e999, "id": 12345678901234567890123}',
        '{ "prompt" : "\\u00e9\\ud83d\\ude00" ,"same":1,"same":2 }',
        '{"prompt": "\u2028\u2029\x85", "half": "\\ud800"}',
    ],
)
def test_what_a_line_has_is_copied_to_the_byte(text):
    out = LineResult(parsed(text.encode()), {"completion": "é"}).to_bytes()
    assert out == text[:-1].encode() + ', "completion": "é"}\n'.encode()
    assert json.loads(out) == json.loads(text) | {"completion": "é"}


@pytest.mark.parametrize("text", ["{}", " { } ", "\t{}\r\n"])
def test_an_empty_object_gains_what_is_added(text):
    assert json.loads(LineResult(parsed(text.encode()), {"error": "x"}).to_bytes()) == {"error": "x"}


def test_an_added_key_is_never_there_twice():
    out = LineResult(parsed(b'{"error": 1, "id": "\\ud800"}'), {"error": "x"}).to_bytes()
    assert json.loads(out, object_pairs_hook=list) == [("id", "\ud800"), ("error", "x")]


def test_half_of_a_surrogate_pair_in_an_error_is_written_as_its_escape():
    assert LineResult(parsed(b"{}"), {"error": "\ud800"}).to_bytes() == b'{"error": "\\ud800"}\n'


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"nonsense", "not JSON: Expecting value at character 1"),
        (b'{"prompt": "a"', "not JSON"),
        (b'{"prompt": "a"} {}', "not JSON: Extra data"),
        (b'{"prompt": "a\x00"}', "not JSON: Invalid control character"),
        (b'{"x": NaN}', "not JSON: it has no NaN"),
        (b'{"x": [-Infinity]}', "not JSON: it has no -Infinity"),
        (b'{"x": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"x": ' + b"[" * 100_000, "not JSON"),
        (b'["a"]', "not a JSON object"),
        (b'"a"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"prompt": "\xff"}', "not UTF-8 text: invalid start byte at byte 13"),
    ],
)
def test_a_line_that_is_no_object_has_an_error(line, words):
    found = parsed(line)
    assert words in found.error
    assert (found.number, found.index, found.record) == (7, 3, {})


def test_lines_end_at_a_line_feed_alone(tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_bytes('\ufeff{"prompt": "a\u2028b\u0085c"}\r\n\n \r\n{"prompt": "d"}'.encode())
    with JsonLinesInput(str(file)) as source:
        lines = list(source.lines())
        assert source.count == 2
        assert [(line.number, line.index, line.record["prompt"]) for line in lines] == [
            (1, 0, "a\u2028b\u0085c"),
            (4, 1, "d"),
        ]
        assert list(source.lines(1)) == lines[1:]
        assert list(source.lines()) == lines


@pytest.mark.parametrize("contents", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_has_no_lines(contents, tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_bytes(contents)
    with open_input(str(file)) as source:
        assert (source.count, list(source.lines())) == (0, [])


def test_an_input_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(PromptError, match="No such file"):
        open_input(str(tmp_path / "nowhere"))
    with pytest.raises(PromptError, match="Is a directory"):
        open_input(str(tmp_path))
