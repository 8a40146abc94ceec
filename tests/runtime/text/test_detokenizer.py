"""join(stream) == decode(all): the pieces of a stream, joined, are the text of all ids at once."""

from __future__ import annotations

import random

import pytest

from runtime.text.detokenizer import Detokenizer
from runtime.text.tokenizer import REPLACEMENT

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


def byte_ids(tokenizer, contents):
    return [tokenizer.token_id(f"<0x{byte:02X}>") for byte in contents]


def test_a_special_token_does_not_end_a_run_of_bytes(tokenizers):
    tokenizer = tokenizers("stories260k")
    first, second = byte_ids(tokenizer, "é".encode())
    assert tokenizer.decode([first, 1, second]) == "é"
    assert streamed(tokenizer, [first, 1, second, 300]) == ["", "", "é", " ha", ""]


@pytest.mark.parametrize(
    ("contents", "pieces"),
    [
        (b"A\n", ["A", "\n"]),
        ("é日😀".encode(), ["", "é", "", "", "日", "", "", "", "😀"]),
        (b"A\xe2B", ["A", "", f"{REPLACEMENT}B"]),
        (b"\xe2\x82A\xff\x80B", ["", "", REPLACEMENT * 2 + "A", "", "", REPLACEMENT * 2 + "B"]),
        (b"\xc3\xc3\xa9", ["", "", f"{REPLACEMENT}é"]),
        (b"\xed\xa0\x80A", ["", "", "", REPLACEMENT * 3 + "A"]),  # half of a surrogate pair
        (b"\xc0\x80A", ["", "", REPLACEMENT * 2 + "A"]),  # an overlong form
        (b"\xef\xbf\xbdA", ["", "", "", f"{REPLACEMENT}A"]),
    ],
)
def test_a_character_in_bytes_comes_with_its_last_byte(contents, pieces, tokenizers):
    tokenizer = tokenizers("stories260k")
    ids = byte_ids(tokenizer, contents)
    assert streamed(tokenizer, ids) == [*pieces, ""]
    assert tokenizer.decode(ids) == "".join(pieces)


def test_a_run_of_bytes_that_is_text_decodes_as_in_transformers(shared_data, tokenizers):
    transformers = pytest.importorskip("transformers")
    oracle = transformers.AutoTokenizer.from_pretrained(shared_data / "stories260k")
    tokenizer, randomness = tokenizers("stories260k"), random.Random(4)
    for _ in range(500):
        contents = [(" ha", [300]), *((character, byte_ids(tokenizer, character.encode())) for character in "aé日😀\n")]
        ids = [token_id for _ in range(6) for token_id in randomness.choice(contents)[1]]
        assert tokenizer.decode(ids) == oracle.decode(ids, skip_special_tokens=True)


def test_a_character_that_the_prompt_begins_comes_whole(tokenizers):
    for name in ("tiny", "stories260k"):
        tokenizer = tokenizers(name)
        bos, *ids = tokenizer.encode("😀abc")
        for cut in (1, 2, 3):
            start = 1 if name == "stories260k" else 0  # SentencePiece's leading space
            prompt, rest = [bos, *ids[: start + cut]], ids[start + cut :]
            assert "".join(streamed(tokenizer, rest, prompt)) == "😀abc"


@pytest.mark.parametrize("name", NAMES)
def test_bytes_that_are_no_characters_stream_too(name, tokenizers):
    tokenizer, randomness = tokenizers(name), random.Random(5)
    texts = [tokenizer.encode(text, add_special_tokens=False) for text in ("😀", "日", "é", "a", " b", "\ufffd")]
    parts = [ids[start:end] for ids in texts for start in range(len(ids)) for end in range(start + 1, len(ids) + 1)]
    broken = [part for part in parts if set(tokenizer.decode(part)) == {REPLACEMENT}]
    for _ in range(1500):
        few = randomness.sample(broken, 2) + [randomness.choice(parts)] * randomness.randrange(2)
        ids = [token_id for _ in range(30) for token_id in randomness.choice(few)]
        pieces = streamed(tokenizer, ids)
        assert "".join(pieces) == tokenizer.decode(ids), ids
        waits = "".join("x" if piece else "." for piece in pieces).split("x")
        assert max(map(len, waits)) < 12
