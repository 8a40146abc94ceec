import random

import pytest

from train.data.documents import Conversation
from train.data.split import is_held_out, split_documents
from train.errors import DataError

TEXTS = [f"Document number {number}." for number in range(2000)]


def held_out(documents, share=0.1):
    return {document for document, is_out in split_documents(documents, share) if is_out}


def test_the_sides_are_disjoint_and_lose_nothing():
    split = list(split_documents(TEXTS, 0.1))
    assert [document for document, _ in split] == TEXTS
    assert len(held_out(TEXTS)) == pytest.approx(200, abs=40)


def test_order_and_additions_move_no_document():
    shuffled = random.Random(0).sample(TEXTS, len(TEXTS))
    assert held_out(shuffled) == held_out(TEXTS)
    assert held_out(TEXTS[:700]) == held_out(TEXTS) & set(TEXTS[:700])


def test_a_larger_share_holds_out_what_a_smaller_one_did():
    assert held_out(TEXTS, 0.05) < held_out(TEXTS, 0.2)


def test_copies_lie_on_the_same_side():
    sides = {is_out for _, is_out in split_documents(["the same"] * 50, 0.5)}
    assert len(sides) == 1


def test_a_small_source_holds_out_its_lowest_hash_and_never_everything():
    documents = [f"Document number {number}." for number in range(30)]
    [only] = held_out(documents, 1e-9)
    assert {only} == held_out(reversed(documents), 1e-9)
    share = next(power for exponent in range(64) if is_held_out(only, power := 2.0 ** (exponent - 63)))
    assert not [document for document in documents if document != only and is_held_out(document, share / 2)]
    assert held_out(["the same"] * 30, 1e-9) == set()


def test_a_share_of_nothing_holds_nothing_out():
    assert list(split_documents(["one document"], 0)) == [("one document", False)]


def test_conversations_are_split_by_what_is_said():
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    reordered = [{"content": message["content"], "role": message["role"]} for message in said]
    assert is_held_out(Conversation(said), 0.5) == is_held_out(Conversation(reordered), 0.5)


def test_a_text_that_is_alone_is_cut_near_its_end():
    assert list(split_documents(["abcdefghij"], 0.3)) == [("abcdefg", False), ("hij", True)]
    with pytest.raises(DataError, match="too short to hold anything out"):
        list(split_documents(["x"], 0.3))
    with pytest.raises(DataError, match="single conversation"):
        list(split_documents([Conversation([{"role": "user", "content": "Hi"}])], 0.3))
