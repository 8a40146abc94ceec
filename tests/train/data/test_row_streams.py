"""Laws of sources that are read while they are trained on: nothing is lost, doubled or held out, and a saved state goes
on with the very next row."""

import json

import numpy as np
import pytest
import torch

from train.data.batches import Batches
from train.data.config import DataSection, SourceSection
from train.data.corpus import build_corpus, make_encoder
from train.data.row_streams import StreamedRows, learned_in, own_row, pack_rows, unpack_rows
from train.data.rows import RowDataset
from train.data.sources import SourceReader
from train.data.split import is_held_out
from train.data.streamed_batches import StreamedBatches
from train.data.tokenizer import CorpusTokenizer, train_tokenizer
from train.errors import DataError, RecipeError

TEXTS = [f"{'one two three four'.split()[number % 4]} {number}" for number in range(300)]


@pytest.fixture(scope="module")
def tokenizer():
    return CorpusTokenizer(train_tokenizer(TEXTS, 400))


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr("train.data.row_streams.GROUP_CHARACTERS", 500)


@pytest.fixture
def lines(tmp_path):
    def write(name="text.jsonl", texts=TEXTS, **options):
        path = tmp_path / name
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return SourceSection(path=str(path), **options)

    return write


@pytest.fixture
def hub(tmp_path):
    """A folder of two Parquet files that `datasets` reads as a stream."""
    pytest.importorskip("datasets", reason="requirements-extras.txt")
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "data").mkdir()
    for number in range(2):
        rows = pa.table({"text": TEXTS[number * 150 : (number + 1) * 150]})
        parquet.write_table(rows, tmp_path / "data" / f"train-{number}.parquet", row_group_size=40)
    return lambda **options: SourceSection(hub=str(tmp_path / "data"), **options)


def data_of(*sources, **options):
    return DataSection(**{"sources": sources, "context": 16, "batch_size": 3, "held_out": 0.1} | options)


def rows_of(source, data, tokenizer):
    return StreamedRows(source, data, make_encoder(tokenizer, data.on_unmaskable), 0, 1)


def texts_in(rows, tokenizer):
    ids = [token for row in rows for token in row.stream.tokens[row.begin : row.end].tolist()]
    return tokenizer.tokenizer.decode(ids, skip_special_tokens=False).split("<|endoftext|>")


@pytest.mark.parametrize("limit", [{}, {"max_documents": 77}, {"max_tokens": 500}])
def test_an_epoch_of_a_stream_is_its_documents_but_the_held_out_ones(lines, tokenizer, small_groups, limit):
    source = lines(stream=True, **limit)
    data = data_of(source, rows="document", shuffle_rows=1)
    rows, drawn = rows_of(source, data, tokenizer), []
    whole = build_corpus(data_of(lines(**limit), rows="document"), tokenizer, 0).sources[0]
    while sum(map(learned_in, drawn)) < whole.train_tokens:
        drawn.append(rows.next_row())
    expected = [tokenizer.tokenizer.decode(ids) for stream in whole.train for ids in stream.texts()]
    assert [text for text in texts_in(drawn, tokenizer) if text] == expected
    assert not [text for text in expected if is_held_out(text, 0.1)]
    again = [rows.next_row() for _ in drawn]
    assert texts_in(again, tokenizer) == texts_in(drawn, tokenizer)  # a stream of one row's buffer repeats


def test_a_buffer_shuffles_and_loses_nothing(lines, tokenizer, small_groups):
    source = lines(stream=True)
    plain, shuffled = (
        rows_of(source, data_of(source, rows="document", shuffle_rows=size), tokenizer) for size in (1, 50)
    )
    in_order, drawn = ([texts_in([rows.next_row()], tokenizer)[1] for _ in range(200)] for rows in (plain, shuffled))
    assert drawn != in_order
    later = [texts_in([plain.next_row()], tokenizer)[1] for _ in range(50)]
    assert set(drawn) <= {*in_order, *later}
    assert len(set(drawn)) == 200
    moves = [abs(in_order.index(text) - place) for place, text in enumerate(drawn) if text in in_order]
    assert np.mean(moves) > 20


@pytest.mark.parametrize("kind", ["lines", "hub", "stories"])
@pytest.mark.parametrize("drawn_before", [0, 1, 7, 130])
def test_a_saved_stream_goes_on_with_the_very_next_row(request, tokenizer, small_groups, kind, drawn_before):
    make = (lambda **_: SourceSection(path="stories", stream=True)) if kind == "stories" else None
    source = (make or request.getfixturevalue(kind))(stream=True)
    data = data_of(source, shuffle_rows=20, documents=40)
    undisturbed = rows_of(source, data, tokenizer)
    for _ in range(drawn_before):
        undisturbed.next_row()
    counts, rows = undisturbed.state()
    resumed = rows_of(source, data, tokenizer)
    resumed.load(json.loads(json.dumps(counts)), unpack_rows(pack_rows(rows)))
    for _ in range(150):
        expected, row = undisturbed.next_row(), resumed.next_row()
        assert np.array_equal(row.stream.tokens, expected.stream.tokens)
        assert (row.begin, row.end) == (expected.begin, expected.end)


def test_a_reader_goes_on_where_another_was(hub):
    source = hub(min_characters=6)
    data = data_of(source)
    reader = SourceReader(source, data, 0)
    documents = iter(reader)
    first = [next(documents) for _ in range(97)]
    rest = list(SourceReader(source, data, 0, json.loads(json.dumps(reader.state))))
    assert [*first, *rest] == [text for text in TEXTS if len(text) >= 6]


def test_rows_are_packed_whole(tokenizer, lines):
    data = data_of(lines(), rows="isolated")
    [stream] = build_corpus(data, tokenizer, 0).sources[0].train
    rows = RowDataset([stream], 16, "isolated")
    own = [own_row(rows[number]) for number in range(len(rows))]
    unpacked = unpack_rows(pack_rows(own))
    assert unpack_rows(pack_rows([])) == []
    for ours, theirs in zip(unpacked, own, strict=True):
        assert np.array_equal(ours.stream.tokens, theirs.stream.tokens)
        assert np.array_equal(ours.stream.documents, theirs.stream.documents)


def same(batch, other):
    return all(torch.equal(ours, theirs) for ours, theirs in zip(batch[:2], other[:2], strict=True))


def test_batches_of_streams_keep_the_weights_and_go_on(lines, hub, tokenizer, small_groups, tmp_path):
    sources = hub(weight=3.0), lines("other.jsonl", [f"cat {n}" for n in range(90)], weight=1.0)
    data = data_of(*sources, shuffle_rows=20)
    corpus = build_corpus(data, tokenizer, 0)
    assert corpus.has_streams
    made = [StreamedBatches(corpus.sources, data, tokenizer, seed=5) for _ in range(2)]
    drawn = [made[0].batch(step) for step in range(60)]
    cat = tokenizer.tokenizer.encode("cat", add_special_tokens=False).ids
    shares = [np.isin(batch.input_ids[row].numpy(), cat).any() for batch in drawn for row in range(3)]
    assert np.mean(shares) == pytest.approx(0.25, abs=0.05)
    made[0].save(tmp_path)  # step 59 is finished; 60 is next
    made[1].load(tmp_path)
    for step in (59, 60, 61, 61, 62):  # a step that was drawn and not finished is drawn again
        assert same(made[1].batch(step), made[0].batch(step) if step > 59 else drawn[59])
    with pytest.raises(ValueError, match="the batch of step 64 was asked for after that of step 62"):
        made[0].batch(64)


def test_processes_share_the_rows_of_a_step(lines, tokenizer, small_groups):
    data = data_of(lines(stream=True), batch_size=4, rows="document", shuffle_rows=20)
    sources = build_corpus(data, tokenizer, 0).sources
    one = StreamedBatches(sources, data, tokenizer, seed=5)
    two = [StreamedBatches(sources, data, tokenizer, seed=5, rank=rank, world_size=2) for rank in range(2)]
    for step in range(5):
        whole, parts = one.batch(step).input_ids, [part.batch(step).input_ids for part in two]
        for row in range(4):
            part = parts[row % 2][row // 2]
            assert torch.equal(whole[row, : len(part)][: whole.shape[1]], part[: whole.shape[1]])


def test_what_is_held_out_of_a_stream_is_what_would_be_of_the_whole(lines, tokenizer):
    streamed, whole = (build_corpus(data_of(lines(stream=stream)), tokenizer, 0) for stream in (True, None))
    assert streamed.held_out_texts(tokenizer.tokenizer) == whole.held_out_texts(tokenizer.tokenizer)
    assert streamed.fingerprint() != whole.fingerprint()
    assert isinstance(Batches(whole.sources, data_of(lines()), seed=0), Batches)


def test_a_hub_data_set_is_streamed_unless_it_is_limited_or_tokenized_first():
    hub = SourceSection(hub="a/b")
    assert hub.is_streamed
    assert not SourceSection(hub="a/b", max_tokens=10).is_streamed
    assert not SourceSection(hub="a/b", stream=False).is_streamed
    assert not SourceSection(path="a.jsonl").is_streamed
    assert DataSection(sources=(hub,)).has_streams
    assert not DataSection(sources=(hub,), tokens="tokens").has_streams


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"sources": (SourceSection(hub="a/b"), SourceSection(path="c"))}, "give each of data.sources its weight"),
        ({"sources": (SourceSection(path="c", stream=True),), "tokens": "d"}, "leave out their stream = true"),
        ({"validation": (SourceSection(path="c", stream=True),)}, "a source of data.validation is not streamed"),
        ({"shuffle_rows": 0}, "data.shuffle_rows must be at least 1"),
    ],
)
def test_what_cannot_be_streamed_is_an_error_of_the_recipe(options, complaint):
    with pytest.raises(RecipeError, match=complaint):
        DataSection(**options)


def test_a_stream_of_nothing_to_learn_ends_with_an_error(lines, tokenizer):
    source = lines(texts=["x"] * 5, stream=True)
    data = data_of(source, held_out=0.9999)
    with pytest.raises(DataError, match="has nothing to train on"):
        rows_of(source, data, tokenizer).next_row()
