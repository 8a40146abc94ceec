"""Text to ids and back, as other programs do it."""

from __future__ import annotations

import json
import shutil

import pytest
from tokenizers import Tokenizer as HFTokenizer

from runtime import Bundle
from runtime.errors import BundleError, ContextLengthError, PromptError
from runtime.text.tokenizer import Tokenizer, load_tokenizer
from tests.runtime.files import edit_json

TEXTS = [
    "Once upon a time",
    " a leading space",
    "two  spaces, a tab\t, a\nnew line\r\n",
    "naïve café, Ωmega, Здравствуй",
    "日本語のテキスト",
    "emoji 😀👩‍👩‍👧 and a flag 🇩🇪",
    "zero\0byte and \ufffd",
    "trailing   ",
    "123 + 4.5e-6 = ?",
    "<s>in the text</s>",
    "x" * 300,
]


def test_twelve_texts_have_the_ids_that_three_programs_give_them(shared_data, tokenizers):
    cases = json.loads((shared_data / "reference" / "tokenization_cases.json").read_text())["cases"]
    tokenizer = tokenizers("smollm2")
    assert len(cases) == 12
    for case in cases:
        assert tokenizer.encode(case["text"], add_special_tokens=False) == case["ids"], case["text"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(("name", "folder"), [("stories260k", "stories260k"), ("smollm2", "smollm2-tokenizer")])
def test_ids_are_those_of_transformers(name, folder, text, shared_data, tokenizers):
    transformers = pytest.importorskip("transformers")
    oracle = transformers.AutoTokenizer.from_pretrained(shared_data / folder)
    assert tokenizers(name).encode(text) == oracle(text)["input_ids"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["tiny", "stories260k", "smollm2"])
def test_decoding_gives_the_text_back(name, text, tokenizers):
    tokenizer = tokenizers(name)
    # In a SentencePiece text `<s>` is the special token itself, which decoding leaves out.
    expected = text.replace("<s>", "").replace("</s>", "") if name == "stories260k" else text
    assert tokenizer.decode(tokenizer.encode(text)).strip(" ") == expected.strip(" ")


def test_an_empty_text_is_the_bos_token(tiny_bundle, tokenizers):
    assert tokenizers("tiny").encode("") == [0]
    assert tokenizers("smollm2").encode("") == [0]
    assert tokenizers("smollm2").encode("", add_special_tokens=False) == []


def test_an_empty_text_without_a_bos_token_is_refused(broken_bundle):
    for name in ("config.json", "generation_config.json"):
        edit_json(broken_bundle / name, bos_token_id=None)
    edit_json(broken_bundle / "tokenizer.json", post_processor=None)
    with pytest.raises(PromptError, match=r"empty.*no BOS"):
        Tokenizer(Bundle.open(broken_bundle)).encode("")


@pytest.mark.parametrize(("text", "place"), [("\ud800", 0), ("half \udc00 a pair", 5), ("a\udcff", 1)])
def test_half_of_a_surrogate_pair_is_refused_with_its_place(text, place, tokenizers):
    with pytest.raises(PromptError, match=rf"not valid Unicode.* at character {place}$"):
        tokenizers("tiny").encode(text)


def test_the_tokens_that_decoding_leaves_out_are_the_silent_ones(tokenizers):
    tokenizer = tokenizers("tiny")
    silent = [token_id for token_id in range(330) if tokenizer.is_silent(token_id)]
    assert silent == [0, 1, 2, *range(320, 330)]
    assert tokenizer.decode(silent) == ""


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (None, "has no tokenizer.json"),
        ("", "cannot be read"),
        ("{}", "cannot be read"),
        ('{"version": "1.0", "model": {"type": "BPE"', "cannot be read"),
        ("\ufffd\0", "cannot be read"),
    ],
)
def test_a_tokenizer_that_is_absent_or_corrupt_is_a_bundle_error(contents, words, broken_bundle):
    path = broken_bundle / "tokenizer.json"
    path.unlink() if contents is None else path.write_text(contents)
    with pytest.raises(BundleError, match=words):
        Tokenizer(Bundle.open(broken_bundle))


def test_a_vocabulary_larger_than_the_model_is_another_models(broken_bundle):
    edit_json(broken_bundle / "config.json", vocab_size=319)
    with pytest.raises(BundleError, match=r"320 tokens, the model 319.*another model"):
        Tokenizer(Bundle.open(broken_bundle))


def with_added_tokens(folder, *tokens, special=False):
    """Add tokens to a tokenizer as transformers does, which leaves the model as it is."""
    path = folder / "tokenizer.json"
    tokenizer = HFTokenizer.from_file(str(path))
    (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(list(tokens))
    tokenizer.save(str(path))
    return Tokenizer(Bundle.open(folder))


@pytest.mark.parametrize("special", [True, False])
def test_a_token_that_the_model_lacks_cannot_be_fed(special, broken_bundle):
    tokenizer = with_added_tokens(broken_bundle, "<a>", "<b>", special=special)
    assert tokenizer.decode(tokenizer.encode("the mouse")) == "the mouse"
    assert tokenizer.unused_token_ids == range(0)
    for text in ("<a>", "the <b> mouse"):
        with pytest.raises(PromptError, match=r"has the token '<[ab]>', which was added to the tokenizer and not to"):
            tokenizer.encode(text)
        with pytest.raises(PromptError, match="added to the tokenizer"):
            tokenizer.encode_prompt(text, add_special_tokens=False)


@pytest.mark.parametrize("padding", [1, 64, 5000])
def test_rows_that_pad_the_vocabulary_are_told(padding, broken_bundle):
    edit_json(broken_bundle / "config.json", vocab_size=320 + padding)
    assert list(Tokenizer(Bundle.open(broken_bundle)).unused_token_ids) == list(range(320, 320 + padding))
    tokenizer = with_added_tokens(broken_bundle, "<a>")
    assert list(tokenizer.unused_token_ids) == list(range(321, 320 + padding))
    assert tokenizer.encode("<a>", add_special_tokens=False) == [320]


def test_ids_within_the_vocabulary_without_a_token_are_told(broken_bundle):
    path = broken_bundle / "tokenizer.json"
    contents = json.loads(path.read_text())
    vocabulary = contents["model"]["vocab"]
    contents["model"]["vocab"] = {token: i for token, i in vocabulary.items() if i not in (318, 319)} | {"zzzz": 330}
    merged = [merge for merge in contents["model"]["merges"] if "".join(merge) in contents["model"]["vocab"]]
    contents["model"]["merges"] = merged
    path.write_text(json.dumps(contents))
    edit_json(broken_bundle / "config.json", vocab_size=333)
    expected = [318, 319, *range(320, 330), 331, 332]
    assert list(Tokenizer(Bundle.open(broken_bundle)).unused_token_ids) == expected


STORED = {
    "truncation": {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0},
    "padding": {
        "strategy": {"Fixed": 128},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<unk>",
    },
}


@pytest.mark.parametrize("stored", [["truncation"], ["padding"], ["truncation", "padding"]])
@pytest.mark.parametrize("base", ["stories260k", "smollm2-tokenizer"])
def test_stored_truncation_and_padding_are_ignored(stored, base, shared_data, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = shutil.copytree(shared_data / base, tmp_path / base)
    edit_json(folder / "tokenizer.json", **{name: STORED[name] for name in stored})
    text = "Once upon a time there was a mouse. " * 9
    for words in (text, "a"):
        expected = transformers.AutoTokenizer.from_pretrained(folder)(words)["input_ids"]
        assert load_tokenizer(folder).encode(words).ids == expected
    assert len(load_tokenizer(folder).encode(text).ids) > 80


def test_stored_truncation_does_not_shorten_a_prompt_or_a_grammar(broken_bundle):
    whole = Tokenizer(Bundle.open(broken_bundle)).encode("the mouse " * 20)
    edit_json(broken_bundle / "tokenizer.json", **STORED)
    tokenizer = Tokenizer(Bundle.open(broken_bundle))
    assert tokenizer.encode_prompt("the mouse " * 20) == whole
    copy = HFTokenizer.from_str(tokenizer.with_another_token("<another>")[0])
    assert copy.encode("the mouse " * 20).ids == whole


@pytest.mark.parametrize("text", ["mouse ", "x", "\u4e2d", "The mouse ran over the hill. "])
def test_a_prompt_whose_beginning_cannot_fit_is_refused_by_it_alone(tiny_bundle, monkeypatch, text):
    """All of it is not tokenized, and it is one that would be refused."""
    tokenizer = Tokenizer(Bundle.open(tiny_bundle))
    context = tokenizer._context_tokens
    # As if the vocabulary had a token that is long: the text might fit, by its length.
    monkeypatch.setattr(Tokenizer, "_longest_token_bytes", 10**6)
    huge = text * (200 * context // len(text))
    assert len(tokenizer.encode(huge)) > 2 * context
    seen = []
    inner = tokenizer._tokenizer

    class Counted:
        def encode(self, text, **options):
            seen.append(len(text))
            return inner.encode(text, **options)

    monkeypatch.setattr(tokenizer, "_tokenizer", Counted())
    with pytest.raises(ContextLengthError, match="it cannot fit; shorten it"):
        tokenizer.encode_prompt(huge)
    assert seen == [16 * context]
