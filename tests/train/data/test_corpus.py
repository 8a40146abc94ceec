import json

import numpy as np
import pytest

from train.data.config import DataSection, SourceSection
from train.data.corpus import build_corpus, tokenizer_texts
from train.data.split import is_held_out
from train.data.stories import true_entropy
from train.data.tokenizer import CorpusTokenizer, train_tokenizer
from train.errors import DataError


def corpus(data):
    tokenizer = CorpusTokenizer(train_tokenizer(tokenizer_texts(data, seed=0), 400))
    return build_corpus(data, tokenizer, seed=0), tokenizer


@pytest.fixture
def lines(tmp_path):
    """Makes a source of documents that say how they are called and which they are."""

    def make(name, count):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": f"{name} {number} " * 5}) + "\n" for number in range(count)))
        return SourceSection(path=str(path))

    return make


def test_documents_stand_between_separators():
    made, _ = corpus(DataSection(documents=40, held_out=0.1, context=16))
    [source] = made.sources
    [train], [held_out] = source.train, source.held_out
    assert len(train.documents) + len(held_out.documents) == 40
    for stream in (train, held_out):
        assert stream.tokens.dtype == np.uint16
        assert stream.tokens[0] == stream.tokens[-1] == made.separator == 0
        assert np.flatnonzero(stream.tokens == 0).tolist() == [0, *stream.documents[:, 1]]


def test_the_true_loss_is_nats_a_story_over_tokens_a_story():
    made, _ = corpus(DataSection(documents=40, held_out=0.1, context=16))
    [source] = made.sources
    predictions = sum(stream.predictions for stream in (*source.train, *source.held_out))
    assert made.true_loss == pytest.approx(true_entropy() * 40 / predictions)


def test_what_is_held_out_is_of_every_source_and_is_not_trained_on(lines):
    sources = (lines("cat", 100), lines("dog", 100))
    made, tokenizer = corpus(DataSection(sources=sources, held_out=0.2, context=16))
    held_out = set(made.held_out_texts(tokenizer.tokenizer))
    assert {text.split()[0] for text in held_out} == {"cat", "dog"}
    assert all(is_held_out(text, 0.2) for text in held_out)
    learned = [
        tokenizer.tokenizer.decode(ids) for source in made.sources for stream in source.train for ids in stream.texts()
    ]
    assert not held_out & set(learned)
    assert len(held_out) + len(learned) == 200
    assert made.true_loss is None


def test_an_evaluation_reads_no_more_than_it_may(lines):
    sources = (lines("cat", 200), lines("dog", 200))
    everything, _ = corpus(DataSection(sources=sources, held_out=0.5, context=16))
    some, _ = corpus(DataSection(sources=sources, held_out=0.5, context=16, held_out_tokens=300))
    assert 150 < sum(len(stream.tokens) for stream in some.held_out) <= 300
    assert len(some.held_out) == len(everything.held_out) == 2
    for shorter, longer in zip(some.held_out, everything.held_out, strict=True):
        assert np.array_equal(shorter.tokens, longer.tokens[: len(shorter.tokens)])


def test_a_text_that_spells_the_separator_does_not_end_there(tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"{number}<|endoftext|>{number}" * 9}) + "\n" for number in range(50)))
    made, tokenizer = corpus(DataSection(source=str(path), held_out=0.2, context=16))
    assert all("<|endoftext|>" in text for text in made.held_out_texts(tokenizer.tokenizer))
    assert int((made.held_out[0].tokens == 0).sum()) == len(made.held_out[0].documents) + 1


def test_a_tokenizer_learns_from_every_source_and_from_nothing_that_is_held_out(lines):
    data = DataSection(sources=(lines("cat", 50), lines("dog", 50)), held_out=0.3)
    texts = list(tokenizer_texts(data, seed=0))
    assert {text.split()[0] for text in texts} == {"cat", "dog"}
    assert not [text for text in texts if is_held_out(text, 0.3)]


def test_a_share_that_holds_nothing_out_is_an_error(lines, monkeypatch):
    monkeypatch.setattr("train.data.split._lowest_held_out", lambda documents: ((one, False) for one in documents))
    with pytest.raises(DataError, match=r"no document is held out at a share of 1e-06: raise data\.held_out"):
        corpus(DataSection(sources=(lines("cat", 20),), held_out=1e-6, context=16))


def test_other_weights_are_other_data(lines):
    sources = (lines("cat", 50), lines("dog", 50))
    made = []
    for weights in ((None, None), (1.0, 1.0), (1.0, 1.0)):
        weighted = tuple(
            SourceSection(path=source.path, weight=weight) for source, weight in zip(sources, weights, strict=True)
        )
        made.append(corpus(DataSection(sources=weighted, held_out=0.2, context=16))[0].fingerprint())
    assert made[0] != made[1] == made[2]
