"""The order in which rows are drawn: endless, shuffled, mixed by weight, and a pure function of the row's number.

Nothing is stored, so the order of billions of rows costs as much as the order of ten, and a resumed run continues at
exactly the next row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

ROUNDS = 6
_MASK = (1 << 64) - 1


class Permutation:
    """A seeded permutation of 0 ... size - 1, computed element by element.

    A Feistel network permutes all numbers with the bits of `size`; a result that is not below `size` goes through it
    again (cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        bits = max(2, (size - 1).bit_length())
        self._low_bits = bits // 2
        self._low, self._high = (1 << bits // 2) - 1, (1 << bits - bits // 2) - 1
        self._keys = [_mixed(seed * ROUNDS + number) for number in range(ROUNDS)]

    def __getitem__(self, place: int) -> int:
        while True:
            place = self._walk(place)
            if place < self._size:
                return place

    def _walk(self, number: int) -> int:
        high, low = number >> self._low_bits, number & self._low
        for high_key, low_key in zip(self._keys[::2], self._keys[1::2], strict=True):
            high ^= _mixed(low ^ high_key) & self._high
            low ^= _mixed(high ^ low_key) & self._low
        return high << self._low_bits | low


class Mixture:
    """Maps n to the source and row that are drawn n-th.

    An epoch draws a fixed number of rows from each source and shuffles them together. Each source cycles through its
    own rows: all are drawn once before any is drawn again, except that the epoch in which a cycle ends shuffles the
    end of one cycle with the start of the next.

    Args:
        rows: the number of rows of each source.
        draws: the number of rows that an epoch draws from each source.
        seed: of the order.
    """

    def __init__(self, rows: Sequence[int], draws: Sequence[int], seed: int) -> None:
        self._rows = rows
        self._draws = draws
        self._ends = list(accumulate(draws))
        self._permutation = lru_cache(maxsize=4 * len(rows) + 4)(
            lambda size, *which: Permutation(size, hash_numbers(seed, *which))
        )

    def __getitem__(self, number: int) -> tuple[int, int]:
        epoch, place = divmod(number, self._ends[-1])
        place = self._permutation(self._ends[-1], epoch)[place]
        source = bisect_right(self._ends, place)
        draw = epoch * self._draws[source] + place - (self._ends[source] - self._draws[source])
        own_epoch, place = divmod(draw, self._rows[source])
        return source, self._permutation(self._rows[source], source, own_epoch)[place]


def draws_by_weight(rows: Sequence[int], predictions: Sequence[int], weights: Sequence[float]) -> list[int]:
    """The number of rows that an epoch draws from each source, so that weights are shares of the predictions.

    An epoch makes about as many predictions as all sources have.

    Args:
        rows: the number of rows of each source.
        predictions: the number of predictions in all rows of each source.
        weights: of each source; their sum may be any number.
    """
    share = sum(predictions) / sum(weights)
    return [
        max(1, round(weight * share / (made / count)))
        for count, made, weight in zip(rows, predictions, weights, strict=True)
    ]


def hash_numbers(*numbers: int) -> int:
    """A hash of whole numbers to 64 bits."""
    seed = 0
    for number in numbers:
        seed = _mixed(seed ^ number)
    return seed


def _mixed(number: int) -> int:
    """A hash of a number to 64 bits (the finalizer of splitmix64: Steele, Lea and Flood, 2014)."""
    number = (number + 0x9E3779B97F4A7C15) & _MASK
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _MASK
    return number ^ number >> 31
