"""The built-in corpus: short stories for children, drawn from a grammar, without end and the same for the same seed.

A story has a hero, a problem and somebody who helps; names, pronouns and things stay what they were. The words, tables
and plots lie in `story_grammar/*.toml`; what a grammar is, and why its entropy is known exactly, is told in
`train.data.grammar`. The true entropy is the least loss that any model can have on unseen stories.

    for story in islice(stories(seed=7), 3): print(story)
    true_entropy()                      # nats a story
    true_entropy() / tokens_per_story   # nats a token; count the token that ends a story too

Knows no tokens: how many of them a story has is the tokenizer's matter.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

from train.data.grammar import Grammar, Table, words

GRAMMAR_FOLDER = Path(__file__).parent / "story_grammar"


def stories(seed: int) -> Iterator[str]:
    """All stories of a seed, one after another; there is no last one."""
    grammar, random = story_grammar(), Random(seed)  # noqa: S311 - stories, not secrets
    while True:
        yield grammar.draw(random)


def true_entropy() -> float:
    """The entropy of a story in nats, exactly."""
    return story_grammar().entropy()


def log_probability(story: str) -> float:
    """The log-probability of a story in nats; -inf for a text that the grammar cannot say."""
    probability = sum(map(math.exp, story_grammar().derivations(story)))
    return math.log(probability) if probability else -math.inf


def parses(text: str) -> bool:
    """Whether a text, but for space around it, is a story of the grammar."""
    return any(True for _ in story_grammar().derivations(text.strip()))


@cache
def story_grammar() -> Grammar:
    """The grammar that `story_grammar/*.toml` describe."""
    word_lists, tables, plots = (
        tomllib.loads((GRAMMAR_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
        for name in ("words", "tables", "plots")
    )
    rules = {name: words(text) for name, text in word_lists.items()}
    rules |= {name: tuple(options) for name, options in plots.items()}
    return Grammar("[plots]", rules, {name: Table.parse(text) for name, text in tables.items()})
