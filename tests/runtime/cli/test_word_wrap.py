"""Words are wrapped as they come, and what a terminal then shows is what wrapping the whole text would give."""

from __future__ import annotations

import random
import re
import textwrap

import pytest

from runtime.cli.word_wrap import WordWrapper


def shown(printed: str) -> list[str]:
    """The lines on a terminal that is wide enough."""
    lines = [""]
    for part in re.findall(r"\x1b\[\d*[DK]|.|\n", printed):
        if part == "\n":
            lines.append("")
        elif part.endswith("D") and part.startswith("\x1b"):
            lines[-1] = lines[-1][: len(lines[-1]) - int(part[2:-1])]
        elif part != "\x1b[K":
            lines[-1] += part
    return lines


@pytest.mark.parametrize("seed", range(40))
def test_pieces_wrap_as_the_whole_text_does(seed):
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcde,.", k=draw.randint(1, 9))) for _ in range(40)]
    text, width = " ".join(words), draw.randint(10, 30)
    wrapper, printed, rest = WordWrapper(width), "", text
    while rest:
        length = draw.randint(1, 7)
        printed, rest = printed + wrapper.push(rest[:length]), rest[length:]
    expected = textwrap.wrap(text, width, break_on_hyphens=False)
    assert [line.rstrip() for line in shown(printed)] == expected


@pytest.mark.parametrize(
    ("width", "text", "expected"),
    [
        (10, "one\ntwo three four", ["one", "two three", "four"]),
        (5, "abcdefghijkl", ["abcde", "fghij", "kl"]),
        (6, "ab 日本語 c", ["ab", "日本語", "c"]),
        (4, "né\u0301e né\u0301e", ["né\u0301e", "né\u0301e"]),
    ],
)
def test_lines_long_words_wide_letters_and_marks(width, text, expected):
    assert [line.rstrip() for line in shown(WordWrapper(width).push(text))] == expected
