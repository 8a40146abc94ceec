"""join(stream) == decode(all): the pieces of a stream, joined, are the text of all ids at once."""

from __future__ import annotations

import random

import pytest

from runtime.text.detokenizer import REPLACEMENT, Detokenizer

NAMES = ["tiny", "stories260k", "smollm2"]
TEXTS = [
    "Once upon a time, there was a café on the Ωmega street. 日本語 😀👩‍👩‍👧🇩🇪 end",
    "  spaces   at both ends  ",
    "\n\nlines\n\t tabs\r\n",
    "a literal \ufffd replacement \ufffd",
    "😀" * 9,
    "ééé\u0301 combining",
]


@pytest.fixture(params=NAMES)
def tokenizer(request, tokenizers):
    return tokenizers(request.param)


def streamed(tokenizer, ids, context=()):
    detokenizer = Detokenizer(tokenizer, context)
    return [*(detokenizer.push(token_id) for token_id in ids), detokenizer.flush()]


def random_ids(tokenizer, randomness):
    """Ids of every kind: any token, bytes, special tokens, ids beyond the vocabulary, and pieces of real text."""
    size = randomness.choice([320, 512]) if tokenizer.byte_tokens else 330
    kinds = [lambda: [randomness.randrange(size)], lambda: [randomness.randrange(3)]]
    if tokenizer.byte_tokens:
        kinds.append(lambda: [randomness.choice(sorted(tokenizer.byte_tokens))])
    text = randomness.choice(TEXTS)
    start = randomness.randrange(len(text))
    encoded = tokenizer.encode(text[start : start + 6], add_special_tokens=False)
    kinds.append(lambda: encoded[randomness.randrange(len(encoded)) :] if encoded else [5])
    return [token_id for _ in range(randomness.randint(0, 10)) for token_id in randomness.choice(kinds)()]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_streams_as_itself(tokenizer, text):
    ids = tokenizer.encode(text)
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


def test_the_pieces_of_random_ids_join_to_their_text(tokenizer):
    randomness = random.Random(1)
    for _ in range(3000):
        ids = random_ids(tokenizer, randomness)
        assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids), ids


def test_after_a_prompt_the_pieces_join_to_what_the_prompt_lacks(tokenizer):
    randomness, checked = random.Random(2), 0
    for _ in range(3000):
        prompt, ids = random_ids(tokenizer, randomness), random_ids(tokenizer, randomness)
        before, whole = tokenizer.decode(prompt), tokenizer.decode(prompt + ids)
        if whole.startswith(before):
            checked += 1
            assert "".join(streamed(tokenizer, ids, prompt)) == whole[len(before) :], (prompt, ids)
    assert checked > 1000


def test_no_piece_ends_in_a_character_that_later_changes(tokenizer):
    randomness = random.Random(3)
    for _ in range(1000):
        ids = random_ids(tokenizer, randomness)
        *pieces, _ = streamed(tokenizer, ids)
        assert not any(piece.endswith(REPLACEMENT) for piece in pieces)
        whole = tokenizer.decode(ids)
        assert whole.startswith("".join(pieces))


def test_a_word_after_the_prompt_keeps_its_space(tokenizers):
    tokenizer = tokenizers("stories260k")
    prompt, whole = tokenizer.encode("Once upon"), tokenizer.encode("Once upon a time")
    assert whole[: len(prompt)] == prompt
    assert "".join(streamed(tokenizer, whole[len(prompt) :], prompt)) == " a time"
    assert "".join(streamed(tokenizer, whole[len(prompt) :])) == "a time"  # and the first word of all has none


@pytest.mark.parametrize("name", NAMES)
def test_an_emoji_comes_whole_or_not_at_all(name, tokenizers):
    tokenizer = tokenizers(name)
    ids = tokenizer.encode("x😀y")
    pieces = streamed(tokenizer, ids)
    assert "".join(pieces).strip() == "x😀y"
    assert any("😀" in piece for piece in pieces)
    assert not any(REPLACEMENT in piece for piece in pieces)


def test_an_unfinished_character_comes_at_the_end(tokenizers):
    tokenizer = tokenizers("tiny")
    ids = tokenizer.encode("x😀")[:-1]
    *pieces, last = streamed(tokenizer, ids)
    assert "".join(pieces) == "x"
    assert set(last) == {REPLACEMENT}


def test_a_special_token_does_not_end_a_run_of_bytes(tokenizers):
    tokenizer = tokenizers("stories260k")
    letter, broken = (tokenizer.token_id(f"<0x{byte:02X}>") for byte in (0x41, 0xE2))
    ids = [letter, 1, broken, 300]  # decoded as one run, which is no UTF-8, so the letter is lost with it
    assert tokenizer.decode(ids).startswith(REPLACEMENT * 2)
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)
