import pytest
import torch

from train.batches import IGNORED, Batches, document_spans, packed_spans, pad_rows
from train.config import DataSection
from train.corpus import encode_texts, read_texts
from train.errors import DataError
from train.tokenizer import train_tokenizer

STREAM = torch.arange(1, 102)  # 100 predictions


def batches(context=7, batch_size=4, seed=0):
    return Batches(STREAM, packed_spans(STREAM, context), batch_size=batch_size, seed=seed)


def predictions(input_ids, labels):
    return [
        (i, o) for i, o in zip(input_ids.flatten().tolist(), labels.flatten().tolist(), strict=True) if o != IGNORED
    ]


def test_labels_are_inputs_shifted_by_one():
    input_ids, labels = batches().batch(0)
    assert input_ids.shape == labels.shape == (4, 7)
    assert all(label == token + 1 for token, label in predictions(input_ids, labels))
    assert torch.equal(input_ids[:, 1:][labels[:, 1:] != IGNORED], labels[:, :-1][labels[:, 1:] != IGNORED])


@pytest.mark.parametrize("context", [1, 7, 10, 99, 100, 101])
def test_packing_loses_nothing(context):
    rows = pad_rows(STREAM, packed_spans(STREAM, context))
    assert rows[0].shape[1] == min(context, 100)
    assert predictions(*rows) == list(zip(range(1, 101), range(2, 102), strict=True))


DOCUMENTS = torch.tensor([0, 5, 6, 7, 0, 8, 0, 9, 9, 9, 9, 9, 0])


@pytest.mark.parametrize("context", [1, 2, 4, 100])
def test_separating_documents_loses_nothing(context):
    rows = pad_rows(DOCUMENTS, document_spans(DOCUMENTS, context, separator=0))
    assert predictions(*rows) == list(zip(DOCUMENTS[:-1].tolist(), DOCUMENTS[1:].tolist(), strict=True))


def test_a_document_is_a_row_and_a_long_one_is_several():
    input_ids, labels = pad_rows(DOCUMENTS, document_spans(DOCUMENTS, context=4, separator=0))
    assert input_ids.tolist() == [[0, 5, 6, 7], [0, 8, 0, 0], [0, 9, 9, 9], [9, 9, 0, 0]]
    assert labels.tolist() == [[5, 6, 7, 0], [8, 0, IGNORED, IGNORED], [9, 9, 9, 9], [9, 0, IGNORED, IGNORED]]


def test_an_epoch_shows_every_row_once():
    source = batches(batch_size=3)  # 15 rows
    seen = [pair for step in range(5) for pair in predictions(*source.batch(step))]
    assert sorted(seen) == list(zip(range(1, 101), range(2, 102), strict=True))


def test_a_batch_is_a_function_of_seed_and_step():
    steps = [0, 1, 7, 3, 0]
    one, other = batches(seed=3), batches(seed=3)
    in_order = {step: other.batch(step)[0] for step in range(8)}
    assert all(torch.equal(one.batch(step)[0], in_order[step]) for step in steps)
    assert not torch.equal(batches(seed=4).batch(0)[0], in_order[0])


def test_epochs_differ_in_order_and_a_batch_may_span_several():
    source = batches(batch_size=15)
    assert not torch.equal(source.batch(0)[0], source.batch(1)[0])
    assert batches(batch_size=40).batch(2)[0].shape == (40, 7)


def corpus(data):
    texts = read_texts(data, seed=0)
    return encode_texts(texts, train_tokenizer(texts.train, 400)), texts


def test_documents_stand_between_ends_of_text():
    tokens, texts = corpus(DataSection(documents=20, held_out=0.1))
    assert (len(texts.train), len(texts.held_out)) == (18, 2)
    for stream, documents in ((tokens.train, texts.train), (tokens.held_out, texts.held_out)):
        assert stream[0] == stream[-1] == tokens.separator == 0
        assert int((stream == 0).sum()) == len(documents) + 1


def test_the_true_loss_is_nats_a_story_over_tokens_a_story():
    tokens, texts = corpus(DataSection(documents=20, held_out=0.1))
    predictions_of_all = len(tokens.train) - 1 + len(tokens.held_out) - 1
    assert tokens.true_loss == pytest.approx(texts.true_entropy * 20 / predictions_of_all)


def test_a_text_file_is_split_at_ends_of_text(tmp_path):
    path = tmp_path / "documents.txt"
    path.write_text("one\n<|endoftext|>\ntwo\n<|endoftext|>\n\n<|endoftext|>three")
    texts = read_texts(DataSection(source=str(path), held_out=0.2), seed=0)
    assert (texts.train, texts.held_out, texts.true_entropy) == (["one", "two"], ["three"], None)


def test_a_text_file_without_separators_is_split_near_its_end(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("abcdefghij")
    texts = read_texts(DataSection(source=str(path), held_out=0.3), seed=0)
    assert (texts.train, texts.held_out) == (["abcdefg"], ["hij"])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "holds no text"),
        (b" \n<|endoftext|>\n", "holds no text"),
        (b"x", "too short"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"text\0text", "zero byte"),
    ],
)
def test_a_file_that_is_no_text_is_an_error(tmp_path, content, complaint):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        read_texts(DataSection(source=str(path)), seed=0)


def test_a_missing_file_is_an_error():
    with pytest.raises(DataError, match="nowhere"):
        read_texts(DataSection(source="nowhere.txt"), seed=0)
