"""Small tasks of our own: items with several answers, of which the model must find the right one the likeliest.

They tell models and precisions apart in seconds and need no download. They are no substitute for the field's: a model
is compared with others by those.
"""

from __future__ import annotations

import tomllib
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

TABLES = Path(__file__).with_name("tasks.toml")
CHOICES = 12

Item = dict[str, Any]  # {"question": ..., "choices": [...], "answer": the place of the right one}


def task_names() -> list[str]:
    """The names of our tasks."""
    return list(_tables())


def items(name: str) -> list[Item]:
    """The items of a task, in order; the same at every call."""
    table = _tables()[name]
    if "sums" in table:
        return _sums(table)
    return _agreements(table) if "singular" in table else _from_pairs(table)


def harness_config(name: str) -> dict[str, Any]:
    """The task as lm-evaluation-harness's `ConfigurableTask` takes it."""
    from datasets import Dataset

    return {
        "task": name,
        "custom_dataset": lambda **_: {"test": Dataset.from_list(items(name))},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def _from_pairs(table: dict[str, Any]) -> list[Item]:
    """A question for each line `key: answer`; the wrong answers are those of other lines, some way further down."""
    pairs = [tuple(part.strip() for part in line.split(":")) for line in table["pairs"].strip().splitlines()]
    answers = [answer for _, answer in pairs]
    made = []
    for number, (key, answer) in enumerate(pairs):
        others = [answers[(number + step * len(pairs) // CHOICES) % len(pairs)] for step in range(1, CHOICES)]
        made.append(_item(table["prompt"].format(key), answer, [one for one in others if one != answer], number))
    return made


def _sums(table: dict[str, Any]) -> list[Item]:
    """Sums of two numbers each, from 2 to `sums`; the wrong answers are off by one or by two."""
    made = []
    for number, (left, right) in enumerate(product(range(2, table["sums"] + 1), repeat=2)):
        others = [str(left + right + error) for error in (1, -1, 2, -2)]
        made.append(_item(table["prompt"].format(left, right), str(left + right), others, number))
    return made


def _item(question: str, answer: str, others: list[str], number: int) -> Item:
    """An item in which no place is right more often than another."""
    place = number % (len(others) + 1)
    return {"question": question, "choices": [*others[:place], answer, *others[place:]], "answer": place}


def _agreements(table: dict[str, Any]) -> list[Item]:
    """Subjects in both numbers, before a noun in either number that the verb must not agree with."""
    made = []
    subjects, others = table["subjects"].split(), table["others"].split()
    for subject, other, is_plural, other_is_plural in product(subjects, others, (False, True), (False, True)):
        words = subject + "s" * is_plural, other + "s" * other_is_plural
        choices = [table["singular"], table["plural"]]
        made.append({"question": table["prompt"].format(*words), "choices": choices, "answer": int(is_plural)})
    return made


@cache
def _tables() -> dict[str, dict[str, Any]]:
    return tomllib.loads(TABLES.read_text(encoding="utf-8"))
