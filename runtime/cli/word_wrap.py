"""Wrapping text at words as it comes, on a terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from unicodedata import combining, east_asian_width

# To the left by n columns; erase to the end of the line (ECMA-48: CUB, EL).
BACK, ERASE = "\x1b[{}D", "\x1b[K"


class WordWrapper:
    """Breaks lines before the word that does not fit. What has come of a word is shown at once, and moves with it.

    Args:
        columns: of a line.
    """

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._column = 0
        self._word, self._word_columns = "", 0

    def push(self, text: str) -> str:
        """What to print for the next piece of text."""
        return "".join(map(self._push, text))

    def _push(self, letter: str) -> str:
        if letter == "\n":
            self._column, self._word, self._word_columns = 0, "", 0
            return letter
        width = 0 if combining(letter) else 2 if east_asian_width(letter) in "WF" else 1
        if letter.isspace():
            self._word, self._word_columns = "", 0
            if self._column + width > self._columns:  # a space at the edge is the break
                self._column = 0
                return "\n"
            self._column += width
            return letter
        moved = ""
        if self._column + width > self._columns:
            if self._word_columns < self._column:  # a word as long as the line is broken where it is
                erased = BACK.format(self._word_columns) + ERASE if self._word_columns else ""
                moved, self._column = f"{erased}\n{self._word}", self._word_columns
            else:
                moved, self._column, self._word, self._word_columns = "\n", 0, "", 0
        self._word += letter
        self._word_columns += width
        self._column += width
        return moved + letter


def terminal_wrapper() -> Callable[[str], str]:
    """Wraps at the width of the terminal on stdout; where that is no terminal, text stays as it is."""
    if sys.stdout is None or not sys.stdout.isatty():
        return lambda text: text
    # The last column is left empty: once it is written, terminals differ in where the cursor is.
    return WordWrapper(max(20, shutil.get_terminal_size().columns - 1)).push
