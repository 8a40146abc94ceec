"""A stop string ends the text before itself, however the text is cut into pieces."""

from __future__ import annotations

import random

import pytest

from runtime import LanguageModel
from runtime.errors import OptionError
from runtime.text.stop_strings import StopStrings
from tests.runtime.options import endless


def passed_on(stops, pieces):
    """What is shown at each piece, what is flushed at the end, and whether a stop string was found."""
    stopping = StopStrings(stops)
    shown = []
    for piece in pieces:
        shown.append(stopping.push(piece))
        if stopping.found:
            return shown, "", True
    return shown, stopping.flush(), False


def cut(text, randomness):
    """The text in random pieces, empty ones among them."""
    places = sorted(randomness.choices(range(len(text) + 1), k=randomness.randint(0, len(text))))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


def text_before_first_complete(stops, text):
    """The law: the stop string that ends first cuts the text where it begins."""
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return text[: min(found)[1]] if found else text


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        (["aab"], ["a", "a", "a", "b"], "a"),
        (["aab"], ["aaab"], "a"),
        (["abab"], ["aba", "cabab", "x"], "abac"),
        (["world", "lo"], ["hello world"], "hel"),
        (["\n\n"], ["one\n", "two\n", "\nthree"], "one\ntwo"),
        (["b", "abc"], ["a", "b", "c"], "a"),  # b is complete before abc
        (["b", "abc"], ["abc"], "a"),
        (["cd", "bcd"], ["abcd"], "a"),  # both are complete at once: the longer one
        (["longer than the text"], ["longer", " than"], "longer than"),
        (["x"], ["", "", "x", "y"], ""),
        (["é😀"], ["caf", "é", "😀!"], "caf"),
        ([], ["all", " of it"], "all of it"),
    ],
)
def test_the_text_ends_before_the_stop_string(stops, pieces, expected):
    shown, flushed, _ = passed_on(stops, pieces)
    assert "".join(shown) + flushed == expected


@pytest.mark.parametrize("alphabet", ["ab", "abc", "ab \n"])
def test_over_random_texts_and_pieces_the_law_holds_and_nothing_leaks(alphabet):
    randomness = random.Random(5)
    for _ in range(4000):
        text = "".join(randomness.choices(alphabet, k=randomness.randint(0, 24)))
        stops = [
            "".join(randomness.choices(alphabet, k=randomness.randint(1, 5))) for _ in range(randomness.randint(1, 3))
        ]
        shown, flushed, found = passed_on(stops, cut(text, randomness))
        given = "".join(shown) + flushed
        assert given == text_before_first_complete(stops, text), (stops, text)
        assert found == any(stop in text for stop in stops)
        assert not any(stop in given for stop in stops)


def test_with_one_stop_string_the_text_ends_where_str_find_says():
    randomness = random.Random(6)
    for _ in range(4000):
        text, stop = ("".join(randomness.choices("ab", k=size)) for size in (20, randomness.randint(1, 6)))
        shown, flushed, found = passed_on([stop], cut(text, randomness))
        assert "".join(shown) + flushed == (text[: text.find(stop)] if stop in text else text)
        assert found == (stop in text)


def test_only_what_may_become_a_stop_string_is_held_back():
    stopping = StopStrings(["stop!", "end"])
    assert stopping.push("a st") == "a "
    assert stopping.push("e") == "st"  # "ste" is none, but "e" may begin "end"
    assert stopping.push("x") == "ex"
    assert stopping.push("en") == ""
    assert stopping.flush() == "en"
    assert stopping.flush() == ""


def test_an_empty_stop_string_is_refused():
    with pytest.raises(OptionError, match="stop string must not be empty"):
        StopStrings(["a", ""])


def test_a_generation_ends_before_the_stop_string_and_says_so(tiny_model: LanguageModel):
    whole = tiny_model.generate("the mouse", endless(max_new_tokens=60))
    assert whole.finish_reason == "length"
    for start in range(3, len(whole.text) - 4):
        stop = whole.text[start : start + 3]
        result = tiny_model.generate("the mouse", endless(max_new_tokens=60, stop_strings=[stop]))
        assert result.text == whole.text[: whole.text.find(stop)]
        assert result.finish_reason == "stop"
        assert result.new_tokens <= whole.new_tokens
    assert tiny_model.generate("the mouse", endless(max_new_tokens=60, stop_strings=["never there"])).text == whole.text
