import math
from itertools import product
from random import Random

import pytest

from train.data.grammar import Grammar, Table, words

RULES = {"greeting": ("hello", "good [time]"), "time": ("day", "evening")}
TABLES = {"pet": Table.parse("name | sound\ncat, lion | meow, purr\nowl | hoot")}


def test_entropy_of_a_grammar_worked_out_by_hand():
    # greeting: hello 1/2, good day 1/4, good evening 1/4. pet: three rows, two of which have two sounds.
    grammar = Grammar("[Greeting], {pet.name}! {pet.Sound}!", RULES, TABLES)
    by_hand = 1.5 * math.log(2) + math.log(3) + 2 / 3 * math.log(2)
    assert grammar.entropy() == pytest.approx(by_hand)


def test_probabilities_of_all_texts_sum_to_one():
    grammar = Grammar("[greeting], {pet.name} {pet.sound}", RULES, TABLES)
    greetings, pets, sounds = ("hello", "good day", "good evening"), ("cat", "lion", "owl"), ("meow", "purr", "hoot")
    texts = [f"{greeting}, {pet} {sound}" for greeting, pet, sound in product(greetings, pets, sounds)]
    assert math.fsum(math.exp(log) for text in texts for log in grammar.derivations(text)) == pytest.approx(1)


def test_rows_repeat_while_rules_are_drawn_anew():
    grammar = Grammar("{pet.name} [time] [time] {pet.name}", RULES, TABLES)
    texts = [grammar.draw(Random(seed)).split() for seed in range(50)]
    assert all(first == last for first, _, _, last in texts)
    assert any(one != other for _, one, other, _ in texts)


def test_a_row_that_only_some_options_use_counts_by_their_share():
    rules = {"end": ("bye", "bye, {pet.name}")}
    assert Grammar("[end]", rules, TABLES).entropy() == pytest.approx(math.log(2) + math.log(3) / 2)


def test_articles_and_capitals():
    grammar = Grammar("{A pet.name} [a time]", {"time": ("evening",)}, {"pet": Table.parse("name\nowl")})
    assert grammar.draw(Random(0)) == "An owl an evening"


def test_an_ambiguous_grammar_tells_all_derivations():
    grammar = Grammar("[either]", {"either": ("same", "same")}, {})
    assert list(grammar.derivations("same")) == pytest.approx([-math.log(2)] * 2)


def test_a_row_that_no_text_names_is_refused():
    with pytest.raises(ValueError, match="'pet' without naming it"):
        Grammar("It says {pet.sound}", RULES, TABLES)


def test_a_table_row_must_have_all_columns():
    with pytest.raises(ValueError, match="cat"):
        Table.parse("name | sound\ncat")


def test_words_are_separated_by_commas_across_lines():
    assert words(" one, two\n  words,\nthree ,") == ("one", "two words", "three")
