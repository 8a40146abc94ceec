"""Every kind of source, read with the code that a user's run uses, and every way in which it can be broken."""

import bz2
import gzip
import json
import lzma
import random
import re
import sys

import pytest

from train.data.config import DataSection, SourceSection
from train.data.documents import Conversation
from train.data.files import BLOCK_BYTES
from train.data.sources import read_source
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


def test_a_json_list_of_alpaca_rows_is_conversations(file):
    rows = [{"instruction": "Hi", "input": "", "output": "Hello."}, {"instruction": "Hi", "output": "Hello."}]
    assert read(file("a.json", json.dumps(rows)), format="alpaca") == [Conversation(CHAT)] * 2


@pytest.mark.parametrize("limit", [1, 2])
def test_a_limit_of_documents_takes_the_first(file, limit):
    assert read(file("a.jsonl", json_lines(ROWS)), max_documents=limit) == ["one", "two\nlines"][:limit]


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
    assert read(path, field="messages") == [Conversation([{**CHAT[0], "id": 7}, CHAT[1]])]
    assert read(path, field="messages", ignored_keys=("id",)) == [Conversation(CHAT)]


def test_parquet_is_read_by_its_field(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="requirements-extras.txt")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": ["one", "two"], "messages": [CHAT, CHAT]}), path)
    assert read(path) == ["one", "two"]
    assert read(path, field="messages") == [Conversation(CHAT)] * 2
    with pytest.raises(DataError, match=r"has no field 'body' .*; there are: text, messages"):
        read(path, field="body")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="is truncated or not a Parquet file"):
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
        ("a.txt.gz", b"not gzip", "the compressed file is truncated or corrupt: Not a gzipped file"),
        ("a.jsonl", b'{"text": "one"}\n{"text": "tw', "line 2 is not JSON: "),
        (
            "a.jsonl",
            b'{"text": "one"}\n{"body": "two", "id": 1}\n',
            r"line 2 has no field 'text' .* there are: body, id",
        ),
        ("a.jsonl", b"[1]\n", "line 1 is not an object with a field 'text'"),
        ("a.jsonl", b'{"text": 3}\n', "line 1: 'text' is neither a text nor a list of messages"),
        ("a.jsonl", b'{"text": [{"role": "user"}]}\n', "line 1: a message's content is neither a text nor"),
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


def compress(content, suffix):
    if suffix == ".zst":
        return pytest.importorskip("zstandard").ZstdCompressor(write_checksum=True).compress(content)
    return {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix](content)


COMPRESSIONS = ["", ".gz", ".bz2", ".xz", ".zst"]
FORMATS = {
    "c4.json": json_lines(ROWS),
    "list.json": json.dumps(ROWS, indent=1),
    "marked.json": "\ufeff " + json.dumps(ROWS),
    "a.JSONL": json_lines(ROWS),
    "a.ndjson": json_lines(ROWS),
    "a.csv": 'id,text\n1,one\n2,"two\nlines"\n3, \n',
    "marked.CSV": '\ufefftext\r\none\r\n"two\nlines"\r\n',
    "a.tsv": 'id\ttext\n1\tone\n2\t"two\nlines"\n',
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_with_fields_is_read_by_its_field(file, name, compression):
    path = file(name + compression, compress(FORMATS[name].encode(), compression))
    assert read(path, field="text") == read(path) == ["one", "two\nlines"]
    with pytest.raises(DataError, match="has no field 'body'"):
        read(path, field="body")


def test_a_cell_of_csv_may_be_long(file):
    assert read(file("a.csv", "text\n" + "x" * 200_000)) == ["x" * 200_000]


@pytest.mark.parametrize("name", ["a.txt", "a.text.gz", "rows", "a.json5", "a.yaml"])
def test_a_field_of_a_plain_text_is_an_error(file, name):
    content = json_lines(ROWS).encode()
    path = file(name, gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError, match="is read as plain text, which has no field 'text'"):
        read(path, field="text")


@pytest.mark.parametrize("compression", COMPRESSIONS[1:])
def test_compressed_text_is_the_text(file, compression):
    content = ("\ufeffone<|endoftext|>" + "word " * (BLOCK_BYTES // 4) + "end").encode()
    compressed = compress(content, compression)
    assert read(file("a.txt" + compression, compressed)) == content.decode()[1:].split("<|endoftext|>")
    twice = file("b.jsonl" + compression, compress(b'{"text": "a"}\n', compression) * 2)  # members one after another
    assert read(twice) == ["a", "a"]


@pytest.mark.parametrize("compression", COMPRESSIONS[1:])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "list.json"])
@pytest.mark.parametrize("damage", ["truncated", "corrupt"])
def test_a_damaged_compressed_file_is_one_line_that_says_where(file, name, compression, damage):
    rows = [{"text": random.Random(number).randbytes(40).hex()} for number in range(30_000)]
    content = json.dumps(rows) if name == "list.json" else json_lines(rows)
    content = "text\n" + "\n".join(row["text"] for row in rows) if name == "a.csv" else content
    whole = compress(content.encode(), compression)
    middle = len(whole) // 2
    broken = whole[:middle] if damage == "truncated" else whole[:middle] + bytes(64) + whole[middle + 64 :]
    path = file(name + compression, broken)
    # What a corrupt block decompresses to is read before its checksum, and may not be JSON or UTF-8.
    expected = "truncated or corrupt" if damage == "truncated" else "truncated or corrupt|is not "
    with pytest.raises(DataError, match=expected) as error:
        read(path)
    places = r"line [1-9]|after [\d,]+ bytes|item [1-9]| is not a text file: the byte at [\d,]+"
    places = r"line [1-9]|after [\d,]+ bytes|item [1-9]|is not a text file: the byte at [\d,]+"
    assert re.match(rf"{re.escape(str(path))},? ?({places})", str(error.value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("opening", ["[", '{"text": '])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_json_nested_without_end_is_one_line_that_says_where(file, name, opening):
    path = file(name, '{"text": "one"}\n' * (opening != "[") + opening * 100_000)
    with pytest.raises(DataError, match="nested too deeply") as error:
        read(path)
    assert "\n" not in str(error.value)
    assert opening == "[" or f"{path}, line 2" in str(error.value)


def test_a_message_nested_deeply_is_an_error(file):
    arguments = "[" * 500 + "]" * 500
    path = file("a.jsonl", f'{{"text": [{{"role": "user", "content": "x", "tool_calls": {arguments}}}]}}\n')
    with pytest.raises(DataError, match="line 1: a message is nested too deeply"):
        read(path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"id,text\n1\n", "line 2 has 1 cells, the first line 2"),
        (b"id,text\n1,one\n2,two,three\n", "line 3 has 3 cells, the first line 2"),
        (b'text\n"one"x\n', "line 2 is not CSV"),
        (b"text\n\xff\xff\n", "is not UTF-8"),
    ],
)
def test_broken_csv_is_an_error_of_one_line(file, content, complaint):
    with pytest.raises(DataError, match=complaint) as error:
        read(file("a.csv", content))
    assert "\n" not in str(error.value)


def test_zstandard_is_named_where_it_is_missing(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(DataError, match="is read with zstandard: pip install zstandard"):
        read(file("a.jsonl.zst", b""))
