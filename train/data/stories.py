"""The built-in corpus: an endless sequence of short children's stories from a grammar, determined by a seed.

A story has a hero, a problem and a helper, and its names, pronouns and things are consistent. The words, tables and
plots are in `story_grammar/*.toml`; `train.data.grammar` explains grammars and why their entropy is known exactly. The
true entropy is the lowest loss that any model can have on unseen stories.

    for story in islice(stories(seed=7), 3): print(story)
    true_entropy()                      # nats per story
    true_entropy() / tokens_per_story   # nats per token; count the token that ends a story too
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
    """The stories of a seed, without end."""
    grammar, random = story_grammar(), Random(seed)  # noqa: S311 - stories, not secrets
    while True:
        yield grammar.draw(random)


def true_entropy() -> float:
    """The entropy of a story in nats, exactly."""
    return story_grammar().entropy()


def log_probability(story: str) -> float:
    """The log-probability of a story in nats; -inf for a text that the grammar cannot produce."""
    probability = sum(map(math.exp, story_grammar().derivations(story)))
    return math.log(probability) if probability else -math.inf


def parses(text: str) -> bool:
    """Whether a text, without space around it, is a story of the grammar."""
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
