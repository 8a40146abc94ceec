"""In which order rows are drawn: shuffled, mixed by weight, without end, and a pure function of a number.

Nothing is stored, so an order of billions of rows costs what one of ten does, and a resumed run goes on at the exact
next row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

ROUNDS = 6
_MASK = (1 << 64) - 1


class Permutation:
    """A seeded order of 0 ... size - 1, computed place by place.

    A Feistel network permutes the numbers of as many bits as `size` needs; a result beyond `size` is sent through it
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
    """Which row of which source is the n-th that is ever drawn.

    An epoch draws a fixed number of rows from each source, all of them shuffled together. A source has epochs of its
    own: every one of its rows is drawn once before any is drawn again (but that the epoch in which they begin again
    may shuffle the two rounds together).

    Args:
        rows: how many each source has.
        draws: how many of each an epoch draws.
        seed: decides the order.
    """

    def __init__(self, rows: Sequence[int], draws: Sequence[int], seed: int) -> None:
        self._rows = rows
        self._draws = draws
        self._ends = list(accumulate(draws))
        self._permutation = lru_cache(maxsize=4 * len(rows) + 4)(
            lambda size, *which: Permutation(size, _seed_of(seed, *which))
        )

    def __getitem__(self, number: int) -> tuple[int, int]:
        epoch, place = divmod(number, self._ends[-1])
        place = self._permutation(self._ends[-1], epoch)[place]
        source = bisect_right(self._ends, place)
        draw = epoch * self._draws[source] + place - (self._ends[source] - self._draws[source])
        own_epoch, place = divmod(draw, self._rows[source])
        return source, self._permutation(self._rows[source], source, own_epoch)[place]


def draws_by_weight(rows: Sequence[int], predictions: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Rows of each source that an epoch draws, so that the predictions made are shared out by weight.

    An epoch makes about as many predictions as there are in all sources.

    Args:
        rows: how many each source has.
        predictions: how many they make in all.
        weights: of any sum.
    """
    share = sum(predictions) / sum(weights)
    return [
        max(1, round(weight * share / (made / count)))
        for count, made, weight in zip(rows, predictions, weights, strict=True)
    ]


def _seed_of(*numbers: int) -> int:
    seed = 0
    for number in numbers:
        seed = _mixed(seed ^ number)
    return seed


def _mixed(number: int) -> int:
    """64 bits that depend on all bits of a number (the finalizer of splitmix64: Steele, Lea and Flood, 2014)."""
    number = (number + 0x9E3779B97F4A7C15) & _MASK
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _MASK
    return number ^ number >> 31
