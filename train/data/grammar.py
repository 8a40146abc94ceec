"""A random grammar, and the exact probability and entropy of its texts.

A grammar consists of rules and tables. A template is a text with two kinds of holes:

    [rule]          one of the rule's options, drawn each time; an option is itself a template
    {table.column}  a cell of the row that this text drew from the table; one row for the whole text

`[Rule]` and `{table.Column}` capitalize the word; `[a rule]` and `{A table.column}` put the right article before it.
Commas in a cell separate alternatives, of which one is drawn. All options, rows and alternatives are equally likely.
Tables make a text coherent: a name and its pronouns stay the same throughout.

The choices of a derivation are independent, except that a row determines the alternatives of its cells. By linearity of
expectation, the entropy of a derivation is a sum over the template (`Grammar.entropy`). It equals the entropy of the
text if each text has one derivation: `Grammar.derivations` lists the derivations of a text, and the tests check that
there is one. `Grammar` checks one condition itself: a text that uses a row also names it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random

HOLE = re.compile(
    r"\[(?P<rule_article>[aA] )?(?P<rule>[\w-]+)\]|\{(?P<article>[aA] )?(?P<table>\w+)\.(?P<column>\w+)\}"
)


@dataclass(frozen=True)
class Alternatives:
    """Several templates, of which one is drawn; all are equally likely."""

    options: tuple[Template, ...]


@dataclass(frozen=True)
class Cell:
    """A column of the row drawn from a table: `alternatives[row]` are the words that it may become."""

    table: str
    alternatives: tuple[tuple[str, ...], ...]
    names_row: bool  # it is the first column, whose words are unique to their rows


Template = tuple[str | Alternatives | Cell, ...]
Rows = dict[str, int]  # table -> the row drawn from it


@dataclass(frozen=True)
class Table:
    """Rows of named columns; each cell is a tuple of alternatives."""

    columns: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], ...], ...]

    @classmethod
    def parse(cls, text: str) -> Table:
        """Read lines of `|`-separated cells; the first line names the columns.

        Several comma-separated names before the first bar make several rows that share the other cells.
        """
        header, *lines = [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]
        rows = []
        for names, *cells in lines:
            if len(cells) != len(header) - 1:
                raise ValueError(f"the row of {names!r} has {len(cells) + 1} cells, the table {len(header)} columns")
            rows += [((name,), *(words(cell) for cell in cells)) for name in words(names)]
        return cls(tuple(header), tuple(rows))


def words(text: str) -> tuple[str, ...]:
    """The comma-separated items of a text, with line breaks as spaces."""
    return tuple(" ".join(item.split()) for item in text.split(",") if item.strip())


class Grammar:
    """A template with its rules and tables: draws texts, computes entropy and parses texts."""

    def __init__(self, start: str, rules: Mapping[str, tuple[str, ...]], tables: Mapping[str, Table]) -> None:
        self._template = _Reader(rules, tables).read(start)
        self._entropy_of_rows = 0.0
        for name, table in tables.items():
            used, named = (_probability_of(self._template, name, naming=naming) for naming in (False, True))
            if not math.isclose(used, named):
                raise ValueError(f"a text may use a row of {name!r} without naming it, so texts are ambiguous")
            self._entropy_of_rows += used * math.log(len(table.rows))

    def draw(self, random: Random) -> str:
        """A random text."""
        return "".join(_draw(self._template, {}, random))

    def entropy(self) -> float:
        """The entropy of a derivation, in nats."""
        return self._entropy_of_rows + _entropy_of_choices(self._template)

    def derivations(self, text: str) -> Iterator[float]:
        """The log-probability of each derivation of a text; none if the grammar cannot produce it."""
        for end, _, log_probability in _match(self._template, text, 0, {}):
            if end == len(text):
                yield log_probability


class _Reader:
    """Parses template strings into trees; parses each rule once."""

    def __init__(self, rules: Mapping[str, tuple[str, ...]], tables: Mapping[str, Table]) -> None:
        self._rules = rules
        self._tables = tables
        self._alternatives: dict[str, Alternatives] = {}

    def read(self, text: str) -> Template:
        parts: list[str | Alternatives | Cell] = []
        position = 0
        for hole in HOLE.finditer(text):
            parts += [text[position : hole.start()], self._rule(hole) if hole["rule"] else self._cell(hole)]
            position = hole.end()
        parts.append(text[position:])
        return tuple(part for part in parts if part != "")

    def _rule(self, hole: re.Match[str]) -> Alternatives:
        if hole[0] not in self._alternatives:
            options = self._rules[_uncapitalized(hole["rule"])]
            self._alternatives[hole[0]] = Alternatives(
                tuple(self.read(_inflected(option, hole["rule"], hole["rule_article"])) for option in options)
            )
        return self._alternatives[hole[0]]

    def _cell(self, hole: re.Match[str]) -> Cell:
        table = self._tables[hole["table"]]
        column = table.columns.index(_uncapitalized(hole["column"]))
        alternatives = tuple(
            tuple(_inflected(word, hole["column"], hole["article"]) for word in row[column]) for row in table.rows
        )
        return Cell(hole["table"], alternatives, names_row=column == 0)


def _inflected(word: str, name: str, article: str | None) -> str:
    """The word with the article and the capital that its hole asks for."""
    if article:
        word = f"{article.strip()}{'n' if word[0] in 'aeiou' else ''} {word}"
    return word[0].upper() + word[1:] if name[0].isupper() else word


def _uncapitalized(name: str) -> str:
    return name[0].lower() + name[1:]


def _probability_of(template: Template, table: str, *, naming: bool) -> float:
    """The probability that a text uses a row of the table, or that it names the row (`naming`)."""
    absent = 1.0
    for part in template:
        if isinstance(part, Alternatives):
            present = sum(_probability_of(option, table, naming=naming) for option in part.options)
            absent *= 1.0 - present / len(part.options)
        elif isinstance(part, Cell) and part.table == table and (part.names_row or not naming):
            absent = 0.0
    return 1.0 - absent


def _draw(template: Template, rows: Rows, random: Random) -> Iterator[str]:
    for part in template:
        if isinstance(part, str):
            yield part
        elif isinstance(part, Alternatives):
            yield from _draw(random.choice(part.options), rows, random)
        else:
            if part.table not in rows:
                rows[part.table] = random.randrange(len(part.alternatives))
            yield random.choice(part.alternatives[rows[part.table]])


def _entropy_of_choices(template: Template) -> float:
    """The entropy of all choices except those of rows, in nats."""
    total = 0.0
    for part in template:
        if isinstance(part, Alternatives):
            total += math.log(len(part.options)) + sum(map(_entropy_of_choices, part.options)) / len(part.options)
        elif isinstance(part, Cell):
            total += sum(math.log(len(cell)) for cell in part.alternatives) / len(part.alternatives)
    return total


def _match(template: Template, text: str, start: int, rows: Rows) -> Iterator[tuple[int, Rows, float]]:
    """All ways in which the template can produce a piece of the text from `start` on.

    Yields:
        The end of the piece, the rows drawn so far, and the log-probability of the choices.
    """
    if not template:
        yield start, rows, 0.0
        return
    for end, known, log_probability in _match_part(template[0], text, start, rows):
        for last, all_known, rest in _match(template[1:], text, end, known):
            yield last, all_known, log_probability + rest


def _match_part(
    part: str | Alternatives | Cell, text: str, start: int, rows: Rows
) -> Iterator[tuple[int, Rows, float]]:
    if isinstance(part, str):
        if text.startswith(part, start):
            yield start + len(part), rows, 0.0
    elif isinstance(part, Alternatives):
        log_share = -math.log(len(part.options))
        for option in part.options:
            for end, known, log_probability in _match(option, text, start, rows):
                yield end, known, log_probability + log_share
    elif part.table in rows:
        yield from _match_cell(part.alternatives[rows[part.table]], text, start, rows)
    else:
        log_share = -math.log(len(part.alternatives))
        for row, cell in enumerate(part.alternatives):
            for end, known, log_probability in _match_cell(cell, text, start, {**rows, part.table: row}):
                yield end, known, log_probability + log_share


def _match_cell(cell: tuple[str, ...], text: str, start: int, rows: Rows) -> Iterator[tuple[int, Rows, float]]:
    for word in cell:
        if text.startswith(word, start):
            yield start + len(word), rows, -math.log(len(cell))
