import math
import re
import statistics
from itertools import islice

import pytest

from train.data.stories import log_probability, parses, stories, story_grammar, true_entropy

COUNT = 1500


@pytest.fixture(scope="module")
def told():
    return list(islice(stories(seed=1), COUNT))


def test_a_seed_decides_the_stories(told):
    assert list(islice(stories(seed=1), 50)) == told[:50]
    assert list(islice(stories(seed=2), 50)) != told[:50]


def test_every_story_has_exactly_one_derivation(told):
    assert {sum(1 for _ in story_grammar().derivations(story)) for story in told} == {1}


def test_entropy_is_the_mean_of_minus_log_probability(told):
    surprises = [-log_probability(story) for story in told]
    standard_error = statistics.stdev(surprises) / math.sqrt(len(surprises))
    assert abs(statistics.mean(surprises) - true_entropy()) < 3 * standard_error


def test_stories_do_not_repeat(told):
    assert len(set(told)) == len(told)


def test_vocabulary_is_of_a_thousand_words_or_more():
    text = " ".join(islice(stories(seed=3), 6000)).lower()
    assert len(set(re.findall(r"[a-z]+", text))) >= 1000


def test_length_fits_a_small_context(told):
    words = [len(re.findall(r"\w+|[^\w\s]", story)) for story in told]
    assert 70 <= statistics.mean(words) <= 100
    assert max(words) < 160


def test_text_is_tidy(told):
    for story in told:
        assert story[0].isupper()
        assert story[-1] in '.!?"'
        assert "  " not in story
        assert "\n" not in story
        assert story.count('"') % 2 == 0
        assert not re.search(r"[\[\]{}|]|\b[Aa] [aeiou]|\b[Aa]n [^aeiou]| [,.!?]", story), story


def test_space_around_a_story_does_not_matter(told):
    assert parses(f" {told[0]}\n")


@pytest.mark.parametrize(
    "mutate",
    [
        lambda story: story[:-1],
        lambda story: story + " The end.",
        lambda story: story.replace(" ", "  ", 1),
        lambda story: story.replace("the", "teh", 1),
        lambda story: " ".join(story.split()[::-1]),
        lambda story: "",
    ],
)
def test_a_mutated_story_does_not_parse(told, mutate):
    assert not any(parses(mutate(story)) for story in told[:50])
    assert log_probability(mutate(told[0])) == -math.inf


def test_a_story_whose_hero_changes_name_does_not_parse(told):
    """What makes a story cohere is what the grammar insists on."""
    for story in told[:200]:
        hero = re.search(r"\b(?:named|called|story of) (\w+)", story)
        if hero and story.count(hero[1]) > 1:
            start, end = story.split(hero[1], 1)
            assert not parses(start + hero[1] + end.replace(hero[1], "Zebulon", 1))
