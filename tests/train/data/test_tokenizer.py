from itertools import islice

import pytest

from train.data.config import END_OF_TEXT
from train.data.stories import stories
from train.data.tokenizer import CorpusTokenizer, load_tokenizer, train_tokenizer
from train.errors import DataError


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(islice(stories(seed=0), 300), vocab_size=600)


@pytest.mark.parametrize("text", ["Once upon a time.", " two  spaces\n\ttab ", "größer 日本語 🙂", "", "7,031 \x00"])
def test_decoding_gives_the_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_end_of_text_is_token_zero_and_no_text_spells_it(tokenizer):
    assert tokenizer.token_to_id(END_OF_TEXT) == 0
    assert 0 not in tokenizer.encode("< | endoftext | >", add_special_tokens=False).ids
    assert tokenizer.get_vocab_size() == 600


def test_a_prompt_stands_where_documents_begin(tokenizer):
    assert tokenizer.encode("Once").ids == [0, *tokenizer.encode("Once", add_special_tokens=False).ids]
    assert tokenizer.encode("").ids == [0]


def test_transformers_makes_the_same_tokenizer_from_the_files(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    CorpusTokenizer(tokenizer).save(tmp_path, max_length=64)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = next(stories(seed=5))
    assert theirs(text)["input_ids"] == tokenizer.encode(text).ids
    assert theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True) == text
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 0, 0)
    assert theirs.model_max_length == 64


def test_a_saved_tokenizer_is_found_by_file_and_by_folder(tokenizer, tmp_path):
    CorpusTokenizer(tokenizer).save(tmp_path, max_length=64)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        assert load_tokenizer(path).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("content", ["", "{}", '{"version": "1.0"', "not json"])
def test_a_broken_tokenizer_is_an_error_of_one_line(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match=r"^[^\n]*is not a tokenizer\.json[^\n]*$"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_the_end_of_text_is_refused(tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match=r"has no token <\|endoftext\|>; name the token"):
        CorpusTokenizer.load(tmp_path)


@pytest.mark.parametrize("stored", ["truncation", "padding"])
def test_truncation_and_padding_that_a_file_stores_are_ignored(tmp_path, shared_data, stored):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(shared_data / "smollm2-tokenizer" / "tokenizer.json"))
    text = "The cat sat on the mat and looked at the moon."
    expected = tokenizer.encode(text).ids
    tokenizer.enable_truncation(4) if stored == "truncation" else tokenizer.enable_padding(length=128)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).encode(text).ids == expected


def test_settings_with_a_byte_order_mark_are_read_and_deep_ones_are_one_line(tokenizer, tmp_path):
    CorpusTokenizer(tokenizer).save(tmp_path, max_length=64)
    path = tmp_path / "tokenizer_config.json"
    expected = CorpusTokenizer.load(tmp_path)
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert CorpusTokenizer.load(tmp_path).separator == expected.separator
    path.write_text('{"a":' * 100_000)
    with pytest.raises(DataError, match=r"^[^\n]*(nested too deeply|not readable)[^\n]*$"):
        CorpusTokenizer.load(tmp_path)
