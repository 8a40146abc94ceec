"""The words of the consumers' table, on answers written down."""

from __future__ import annotations

import pytest

from tests.compat.cells import FLOATS, TIE_LOGITS, _word, is_ok
from tests.compat.expected import Continuation

RIGHT = [Continuation([1, 2, 3], [1.0, 0.001, 1.0]), Continuation([4, 5, 6], [1.0, 1.0, 0.5])]
SAME = [[1, 2, 3], [4, 5, 6]]
TIED = [1, 9, 9]


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (SAME, "ok"),
        ([TIED, [4, 5, 6]], "ok, prompt 1 to a tie at token 2 (margin 0.001)"),
        ([[1, 2, 9], [4, 5, 6]], "prompt 1 differs at token 3 (margin 1)"),
        ([TIED, [4, 5, 9]], "prompt 2 differs at token 3 (margin 0.5)"),
        ([[1, 2], [4, 5, 6]], "prompt 1 differs at token 3 (margin 0)"),
        ([[1], [4, 5, 6]], "prompt 1 differs at token 2 (margin 0)"),
        ({"error": "Could not find an implementation for Foo(1)"}, "lacks Foo"),
    ],
)
def test_a_word_says_where_tokens_part(answer, word) -> None:
    assert _word(answer, RIGHT, TIE_LOGITS) == word
    assert is_ok(word) is word.startswith("ok")


def test_floats_have_no_ties() -> None:
    assert "fp32" in FLOATS
    assert _word([TIED, [4, 5, 6]], RIGHT, 0.0) == "prompt 1 differs at token 2 (margin 0.001)"
