"""Laws of rows and batches: no prediction is lost, none is made twice, and a step's rows are a function of the step."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from model import ModelConfig, TransformerModel
from train.data.batches import Batches, pad_rows
from train.data.config import DataSection
from train.data.corpus import TokenSource
from train.data.rows import RowDataset
from train.data.streams import Stream
from train.errors import DataError, RecipeError
from train.labels import IGNORE_INDEX

NUMBERS = Stream(np.arange(1, 102, dtype=np.uint16), np.array([[0, 100]]))  # 100 predictions, of 2 from 1 and so on
# 0 stands between documents: 5 6 7, 8, and 9 9 9 9 9
DOCUMENTS = Stream(
    np.array([0, 5, 6, 7, 0, 8, 0, 9, 9, 9, 9, 9, 0], np.uint16), np.array([[0, 4], [4, 6], [6, 12]], np.int64)
)
# A text 5 6, and a conversation 1 2 3 4 of which 3 4 are learned
MIXED = Stream(
    np.array([0, 5, 6, 0, 1, 2, 3, 4, 0], np.uint16),
    np.array([[0, 3], [4, 7]], np.int64),
    np.array([1, 1, 1, 1, 0, 0, 1, 1, 0], np.bool_),
)


def source(*streams, weight=None, name="source"):
    return TokenSource(name, weight, streams, [], [])


def batches(*sources, seed=0, context=7, batch_size=4, rows="packed", **ranks):
    data = DataSection(context=context, batch_size=batch_size, rows=rows)
    return Batches(sources or [source(NUMBERS)], data, seed=seed, **ranks)


def predictions(batch):
    pairs = zip(batch.input_ids.flatten().tolist(), batch.labels.flatten().tolist(), strict=True)
    return [(token, label) for token, label in pairs if label != IGNORE_INDEX]


def all_predictions(*streams, context, cut):
    return predictions(pad_rows(list(RowDataset(streams, context, cut))))


def test_labels_are_inputs_shifted_by_one():
    batch = batches().batch(0)
    assert batch.input_ids.shape == batch.labels.shape == (4, 7)
    assert batch.input_ids.dtype == batch.labels.dtype == torch.int64
    assert all(label == token + 1 for token, label in predictions(batch))


@pytest.mark.parametrize("context", [1, 7, 10, 99, 100, 101])
@pytest.mark.parametrize("cut", ["packed", "isolated", "document"])
def test_every_token_is_predicted_once_whatever_the_context(context, cut):
    assert all_predictions(NUMBERS, context=context, cut=cut) == [(n, n + 1) for n in range(1, 101)]


@pytest.mark.parametrize("context", [1, 2, 4, 100])
@pytest.mark.parametrize("cut", ["packed", "isolated", "document"])
def test_documents_lose_nothing_in_any_cut(context, cut):
    tokens = DOCUMENTS.tokens.tolist()
    expected = list(pairwise(tokens))
    assert all_predictions(DOCUMENTS, DOCUMENTS, context=context, cut=cut) == expected * 2


def test_a_document_is_a_row_and_a_long_one_is_several():
    batch = pad_rows(list(RowDataset([DOCUMENTS], 4, "document")))
    assert batch.input_ids.tolist() == [[0, 5, 6, 7], [0, 8, 0, 0], [0, 9, 9, 9], [9, 9, 0, 0]]
    assert batch.labels.tolist() == [
        [5, 6, 7, 0],
        [8, 0, IGNORE_INDEX, IGNORE_INDEX],
        [9, 9, 9, 9],
        [9, 0, IGNORE_INDEX, IGNORE_INDEX],
    ]
    assert batch.document_ids is None


@pytest.mark.parametrize("cut", ["packed", "isolated", "document"])
def test_what_is_not_learned_is_no_label(cut):
    assert all_predictions(MIXED, context=100, cut=cut) == [(0, 5), (5, 6), (6, 0), (2, 3), (3, 4)]


def test_a_row_without_anything_to_learn_is_left_out():
    rows = [MIXED.tokens[row.begin : row.end].tolist() for row in RowDataset([MIXED], 1, "packed")]
    assert rows == [[0], [5], [6], [2], [3]]


@pytest.mark.parametrize("cut", ["packed", "document"])
def test_rows_beyond_the_last_are_an_error(cut):
    rows = RowDataset([DOCUMENTS, NUMBERS], 4, cut)
    assert len(list(rows)) == len(rows)
    for number in (-1, len(rows)):
        with pytest.raises(IndexError):
            rows[number]


def test_an_epoch_shows_every_row_once():
    drawn = batches(batch_size=3)  # 15 rows
    seen = [pair for step in range(5) for pair in predictions(drawn.batch(step))]
    assert sorted(seen) == [(n, n + 1) for n in range(1, 101)]


def test_a_batch_is_a_function_of_seed_and_step():
    one, other = batches(seed=3), batches(seed=3)
    in_order = {step: other.batch(step).input_ids for step in range(8)}
    assert all(torch.equal(one.batch(step).input_ids, in_order[step]) for step in (0, 1, 7, 3, 0))
    assert not torch.equal(batches(seed=4).batch(0).input_ids, in_order[0])


def test_epochs_differ_in_order_and_a_batch_may_span_several():
    drawn = batches(batch_size=15)
    assert not torch.equal(drawn.batch(0).input_ids, drawn.batch(1).input_ids)
    assert batches(batch_size=40).batch(2).input_ids.shape == (40, 7)


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_processes_share_the_rows_that_one_alone_would_take(world_size):
    alone = batches(batch_size=6)
    shared = [batches(batch_size=6, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in (0, 5, 100):
        expected = sorted(predictions(alone.batch(step)))
        parts = [predictions(process.batch(step)) for process in shared]
        assert sorted(pair for part in parts for pair in part) == expected


def test_processes_that_cannot_share_a_batch_evenly_are_an_error():
    with pytest.raises(RecipeError, match=r"3 processes cannot share data\.batch_size 4 evenly"):
        batches(world_size=3)


def test_a_source_of_which_all_is_held_out_is_an_error():
    empty = Stream(np.array([0], np.uint16), np.empty((0, 2), np.int64))
    with pytest.raises(DataError, match="source has nothing to train on"):
        batches(source(empty))


@pytest.mark.parametrize(("weights", "share"), [((None, None), 100 / 124), ((1.0, 1.0), 0.5), ((1.0, 4.0), 0.2)])
@pytest.mark.parametrize("cut", ["packed", "document"])
def test_weights_share_out_the_tokens(weights, share, cut):
    letters = Stream(np.array([0, *range(201, 224), 0], np.uint16), np.array([[0, 24]], np.int64))
    drawn = batches(
        source(NUMBERS, weight=weights[0]), source(letters, weight=weights[1]), rows=cut, context=5, batch_size=5
    )
    seen = [label for step in range(500) for _, label in predictions(drawn.batch(step))]
    assert np.mean([1 <= label <= 101 for label in seen if label]) == pytest.approx(share, abs=0.02)


def test_isolated_documents_are_told_apart():
    [row] = RowDataset([DOCUMENTS], 100, "isolated")
    assert pad_rows([row], isolated=True).document_ids.tolist() == [[1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3]]


@pytest.fixture
def model(tiny_recipe):
    torch.manual_seed(0)
    return TransformerModel(ModelConfig.from_preset("tiny").replace(**tiny_recipe().model.overrides)).eval()


@torch.inference_mode()
def test_no_token_of_an_isolated_row_sees_another_document(model):
    [row] = RowDataset([DOCUMENTS], 100, "isolated")
    input_ids, _, document_ids = pad_rows([row], isolated=True)
    changed = input_ids.clone()
    changed[0, 1:4] = torch.tensor([77, 78, 79])  # another first document
    packed = [model(ids)[0, 4:] for ids in (input_ids, changed)]
    isolated = [model(ids, document_ids=document_ids)[0, 4:] for ids in (input_ids, changed)]
    assert not torch.allclose(*packed)
    assert torch.equal(*isolated)


@torch.inference_mode()
def test_a_document_of_an_isolated_row_is_computed_as_if_it_were_alone(model):
    [row] = RowDataset([DOCUMENTS], 100, "isolated")
    input_ids, _, document_ids = pad_rows([row], isolated=True)
    together = model(input_ids, document_ids=document_ids)[0]
    alone = torch.cat([model(input_ids[:, begin:end])[0] for begin, end in DOCUMENTS.documents])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_documents_go_with_no_cache(model):
    with pytest.raises(ValueError, match="document_ids go with none"):
        model(torch.ones(1, 4, dtype=torch.int64), document_ids=torch.ones(1, 4), kv_cache=model.new_cache(1, 8))
