import statistics
from collections import Counter

import pytest

from train.data.mixture import Mixture, Permutation, draws_by_weight


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 15, 16, 17, 100, 1000])
def test_a_permutation_has_every_number_once(size):
    order = Permutation(size, seed=1)
    assert sorted(order[place] for place in range(size)) == list(range(size))


def test_seeds_give_different_orders():
    orders = {tuple(Permutation(20, seed)[place] for place in range(20)) for seed in range(200)}
    assert len(orders) == 200


def test_any_number_stands_at_any_place():
    """Each of 10 numbers stands first in a tenth of 2,000 orders: chi-square with 9 degrees of freedom, p = 0.001."""
    counts = Counter(Permutation(10, seed)[0] for seed in range(2000))
    assert sum((counts[number] - 200) ** 2 / 200 for number in range(10)) < 27.9


def test_neighbours_part():
    order = Permutation(10_000, seed=0)
    gaps = [abs(order[place] - order[place + 1]) for place in range(2000)]
    assert statistics.mean(gaps) == pytest.approx(10_000 / 3, rel=0.05)


def test_an_order_of_billions_costs_nothing():
    order = Permutation(10**12, seed=0)
    assert len({order[place] for place in range(1000)}) == 1000


def test_without_weights_an_epoch_draws_every_row_once():
    mixture = Mixture([5, 12], [5, 12], seed=0)
    for epoch in range(3):
        drawn = [mixture[epoch * 17 + place] for place in range(17)]
        assert sorted(drawn) == [(0, row) for row in range(5)] + [(1, row) for row in range(12)]


def test_with_weights_a_source_draws_every_row_once_before_any_again():
    mixture = Mixture([10, 7], [4, 13], seed=0)
    drawn = [mixture[number] for number in range(17 * 35)]  # 140 draws of 10 rows, 455 of 7
    assert set(Counter(drawn).values()) == {14, 65}
    for epoch in range(35):
        counts = Counter(source for source, _ in drawn[: 17 * (epoch + 1)])
        assert (counts[0], counts[1]) == (4 * (epoch + 1), 13 * (epoch + 1))
        rows = Counter(row for source, row in drawn[: 17 * (epoch + 1)] if source == 0)
        assert max(rows.values()) - min(rows[row] for row in range(10)) <= 1


def test_draws_follow_weights_and_the_length_of_rows():
    # Two sources of 1,000 predictions each, in rows of 10 and of 100: a quarter and three quarters of 2,000.
    assert draws_by_weight([100, 10], [1000, 1000], [1.0, 3.0]) == [50, 15]
