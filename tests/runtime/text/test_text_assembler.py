"""Ids become text up to a stop string, which may be or hold a special token, as in transformers."""

from __future__ import annotations

import random

import pytest

from runtime.text.text_assembler import TextAssembler
from runtime.text.tokenizer import REPLACEMENT

END, START = "<|im_end|>", "<|im_start|>"


def assembled(tokenizer, ids, stops, context=()):
    """The pieces, and how many ids were taken until the text was cut."""
    assembler = TextAssembler(tokenizer, context, stops)
    pieces = []
    for token_id in ids:
        pieces.append(assembler.push(token_id))
        if assembler.is_cut:
            break
    else:
        pieces.append(assembler.flush())
    return pieces, len(pieces) if assembler.is_cut else None


def ids_of(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        (f"Hello{END}\nmore", [END], "Hello"),
        (f"Hello{END}\nmore", [f"{END}\n"], "Hello"),
        (f"Hello{END}\nmore", [f"lo{END}"], "Hel"),
        (f"Hello{END}\nmore", [f"lo{END}\nm"], "Hel"),
        (f"Hello{END}{START}more", [f"{END}{START}"], "Hello"),
        (f"Hello{END}more", ["im_end"], "Hello"),  # within the token: it is cut whole
        (f"Hello{END}more", ["ome", "omo"], "Hello" + "more"),
        (f"Hello{END}more", ["om", f"{END}n"], "Hellomore"),
        (f"Hello{END}more{START}", [f"{END}more{END}"], "Hellomore"),
        (f"Hello{END}", [f"{END}\n"], "Hello"),
        (f"a{END}b{START}c", ["<|endoftext|>"], "abc"),
        (f"a{END}b", [], "ab"),
    ],
)
def test_a_special_token_is_seen_by_stop_strings_and_not_shown(text, stops, expected, tokenizers):
    tokenizer = tokenizers("tiny")
    pieces, cut = assembled(tokenizer, ids_of(tokenizer, text), stops)
    assert "".join(pieces) == expected
    assert (cut is not None) == any(stop in text for stop in stops)


@pytest.mark.filterwarnings("ignore")
def test_the_text_is_cut_at_the_token_where_transformers_stops(tokenizers, tiny_bundle):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    oracle = transformers.AutoTokenizer.from_pretrained(tiny_bundle)
    tokenizer = tokenizers("tiny")
    randomness, cuts = random.Random(1), 0
    words = [END, START, "\n", "a", "b", "é", "<", "|>", "im"]
    for _ in range(60):
        stops = ["".join(randomness.choices(words, k=randomness.randint(1, 3))) for _ in range(2)]
        criterion = transformers.StopStringCriteria(oracle, stops)
        for _ in range(20):
            ids = ids_of(tokenizer, "".join(randomness.choices(words, k=12)))
            places = range(1, len(ids) + 1)
            expected = next((n for n in places if bool(criterion(torch.tensor([ids[:n]]), None)[0])), None)
            pieces, cut = assembled(tokenizer, ids, stops)
            assert cut == expected, (stops, ids)
            whole = tokenizer.decode(ids)
            assert whole.startswith("".join(pieces)) if cut else "".join(pieces) == whole
            cuts += cut is not None
    assert 200 < cuts < 1000


@pytest.mark.parametrize("name", ["tiny", "stories260k"])
def test_special_tokens_within_characters_change_no_text(name, tokenizers):
    tokenizer, randomness = tokenizers(name), random.Random(2)
    specials = sorted(tokenizer.special_tokens)
    stops = [tokenizer.special_tokens[specials[0]] + "never", "never"]
    for _ in range(500):
        ids = ids_of(tokenizer, "".join(randomness.choices("aé日😀 \n", k=6)))
        for _ in range(3):
            ids.insert(randomness.randrange(len(ids)), randomness.choice(specials))
        pieces, cut = assembled(tokenizer, ids, stops)
        assert cut is None
        assert "".join(pieces) == tokenizer.decode(ids)


def test_an_unfinished_character_does_not_join_a_stop_string(tokenizers):
    tokenizer = tokenizers("tiny")
    *half, _ = ids_of(tokenizer, "é")
    end = tokenizer.token_id(END)
    ids = [*ids_of(tokenizer, "X"), *half, end, *ids_of(tokenizer, "Y")]
    assert "".join(assembled(tokenizer, ids, [f"X{END}"])[0]) == f"X{REPLACEMENT}Y"
    assert "".join(assembled(tokenizer, ids, [END])[0]) == "X"


def test_the_context_is_not_given_out_and_meets_no_stop_string(tokenizers):
    tokenizer = tokenizers("tiny")
    pieces, cut = assembled(tokenizer, ids_of(tokenizer, "b"), ["ab", END], ids_of(tokenizer, f"a{END}a"))
    assert ("".join(pieces), cut) == ("b", None)
