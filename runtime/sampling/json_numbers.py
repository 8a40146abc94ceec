"""Keeps numbers in constrained JSON from running on without end.

JSON allows any number of digits, and a model that has begun to repeat one may never stop. No digit beyond those of a
float64 tells anything more, so none is drawn, unless the schema leaves nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

# A float64 is told apart by 17 significant digits; its exponents have three at most, and two never overflow.
MAX_DIGITS, MAX_EXPONENT_DIGITS = 17, 2
DIGITS = b"0123456789"


class DigitRun:
    """Where a JSON text stands, as far as digits go. Fed byte by byte, from its beginning.

    Attributes:
        digits: in a row at the end of the text, outside strings.
        in_exponent: whether they are an exponent's.
    """

    def __init__(self) -> None:
        self.digits = 0
        self.in_exponent = False
        self._in_string = self._is_escaped = False

    def feed(self, text: bytes) -> None:
        """Go on by the next bytes."""
        for byte in text:
            if self._in_string:
                self._in_string = self._is_escaped or byte != ord('"')
                self._is_escaped = byte == ord("\\") and not self._is_escaped
            elif byte in DIGITS:
                self.digits += 1
            else:
                self.digits = 0
                self._in_string = byte == ord('"')
                self.in_exponent = byte in b"eE" or (self.in_exponent and byte in b"+-")

    @property
    def room(self) -> int:
        """How many digits more may follow at once."""
        return max(0, (MAX_EXPONENT_DIGITS if self.in_exponent else MAX_DIGITS) - self.digits)


def leading_digits(vocab_size: int, token_bytes: Callable[[int], bytes]) -> np.ndarray:
    """How many digits each token begins with, int64 [vocab_size]."""
    texts = (token_bytes(token_id) for token_id in range(vocab_size))
    return np.array([len(text) - len(text.lstrip(DIGITS)) for text in texts], np.int64)


def forbid_digits(allowed: np.ndarray, digits: np.ndarray, room: int) -> np.ndarray:
    """The tokens of `allowed`, bool [vocab_size], that fit into the room; all of them where none does.

    Args:
        allowed: by the schema.
        digits: from `leading_digits`.
        room: `DigitRun.room`.
    """
    fitting: np.ndarray = allowed & (digits <= room)
    return fitting if fitting.any() else allowed


def digit_run(texts: Sequence[bytes]) -> DigitRun:
    """Where a text of these parts stands."""
    run = DigitRun()
    for text in texts:
        run.feed(text)
    return run
