"""Every kind of source, read with the code that a user's run uses, and every way in which it can be broken."""

import gzip
import json

import pytest

from train.data.config import DataSection, SourceSection
from train.data.sources import BLOCK_BYTES, read_source
from train.errors import DataError

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
ROWS = [{"text": "one", "id": 1}, {"text": "two\nlines", "id": 2}, {"text": " ", "id": 3}]


def read(path, **options):
    data = DataSection(sources=(SourceSection(path=str(path), **options),))
    return list(read_source(data.sources[0], data, seed=0))


@pytest.fixture
def file(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def json_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_a_text_file_is_split_at_ends_of_text(file):
    path = file("a.txt", "one\r\nand a half\n<|endoftext|>\ntwo\n<|endoftext|>\n\n<|endoftext|>three")
    assert read(path) == ["one\nand a half", "two", "three"]


def test_a_text_file_is_split_at_a_separator_of_its_own_even_between_blocks(file):
    long = "word " * (BLOCK_BYTES // 5) + "end"  # the separator lies across the border of two blocks
    assert read(file("a.txt", f"{long}=====two"), separator="=====") == [long, "two"]


@pytest.mark.parametrize("pattern", ["^(?=CHAPTER )", "^(?=(CHAPTER) )"])
def test_a_text_file_is_split_where_a_pattern_matches(file, pattern):
    path = file("book.txt", "Title\n\nCHAPTER 1\nOnce.\n\nCHAPTER 2\nIn no CHAPTER 3.\n")
    assert read(path, separator_pattern=pattern) == ["Title", "CHAPTER 1\nOnce.", "CHAPTER 2\nIn no CHAPTER 3."]
    assert read(path, separator_pattern=pattern, min_characters=10) == read(path, separator_pattern=pattern)[1:]


def test_wildcards_name_files_in_order_below_the_root(file, tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        file(name, name)
    source = SourceSection(path="*.txt")
    assert list(read_source(source, DataSection(root=str(tmp_path)), 0)) == ["a.txt", "b.txt"]
    assert read(tmp_path / "*.txt") == ["a.txt", "b.txt"]
    with pytest.raises(DataError, match="no file matches"):
        read(tmp_path / "*.pdf")


def test_json_lines_are_read_by_their_field(file):
    assert read(file("a.jsonl", json_lines(ROWS) + "\n")) == ["one", "two\nlines"]
    assert read(file("b.jsonl.gz", gzip.compress(json_lines([{"body": "x"}]).encode())), field="body") == ["x"]


def test_a_field_of_messages_is_a_conversation(file):
    path = file("a.jsonl", json_lines([{"messages": [{**CHAT[0], "id": 7}, CHAT[1]]}]))
    assert read(path, field="messages") == [CHAT]


def test_parquet_is_read_by_its_field(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="requirements-extras.txt")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": ["one", "two"], "messages": [CHAT, CHAT]}), path)
    assert read(path) == ["one", "two"]
    assert read(path, field="messages") == [CHAT, CHAT]
    with pytest.raises(DataError, match=r"has no field 'body' .*; there are: text, messages"):
        read(path, field="body")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="is cut off or is no Parquet file"):
        read(path)


def test_a_data_set_is_streamed(file, tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="requirements-extras.txt")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    file("train.jsonl", json_lines(ROWS))
    source = SourceSection(hub=str(tmp_path))
    assert list(read_source(source, DataSection(), 0)) == ["one", "two\nlines"]
    with pytest.raises(DataError, match="has no field 'body'"):
        list(read_source(SourceSection(hub=str(tmp_path), field="body"), DataSection(), 0))
    with pytest.raises(DataError, match=r"the data set nobody/nothing/train cannot be opened: "):
        list(read_source(SourceSection(hub="nobody/nothing"), DataSection(), 0))


def test_stories_are_as_many_as_asked_for():
    data = DataSection(documents=3)
    assert len(list(read_source(data.all_sources[0], data, seed=0))) == 3


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.txt", b"", "holds no text"),
        ("a.txt", b" \n<|endoftext|>\n", "holds no text"),
        ("a.txt", b"good<|endoftext|>bad \xff\xfe", "the byte at 21 is not UTF-8"),
        ("a.txt", b"good<|endoftext|>te\0t", "a zero byte at 19"),
        ("a.txt.gz", b"not gzip", "cannot be read: Not a gzipped file"),
        ("a.jsonl", b'{"text": "one"}\n{"text": "tw', "line 2 is not JSON: "),
        (
            "a.jsonl",
            b'{"text": "one"}\n{"body": "two", "id": 1}\n',
            r"line 2 has no field 'text' .* there are: body, id",
        ),
        ("a.jsonl", b"[1]\n", "line 1 is not an object with a field 'text'"),
        ("a.jsonl", b'{"text": 3}\n', "line 1: 'text' is neither a text nor a list of messages"),
        ("a.jsonl", b'{"text": [{"role": "user"}]}\n', "neither a text nor a list of messages"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1: 'text' is not valid Unicode"),
        ("a.jsonl", b"\n", "holds no text"),
    ],
)
def test_a_broken_file_is_an_error_of_one_line(file, name, content, complaint):
    with pytest.raises(DataError, match=complaint) as error:
        read(file(name, content))
    assert "\n" not in str(error.value)


def test_a_missing_file_is_an_error():
    with pytest.raises(DataError, match=r"nowhere\.txt cannot be read: No such file"):
        read("nowhere.txt")


def test_documents_that_are_all_too_short_are_an_error(file):
    with pytest.raises(DataError, match="holds no text of 500 characters or more"):
        read(file("a.txt", "short"), min_characters=500)
