"""`auto`: within its budget, and smaller the more it may cost."""

from __future__ import annotations

from itertools import product

import pytest

from export.calibration import Calibration
from export.errors import ExportError
from export.mixed_precision import Option, cheapest, smallest_within
from export.weight_formats import Blockwise, Float
from tests.export.graphs import make_checkpoint

FOUR, EIGHT = Blockwise(16, bits=4), Blockwise(16)


def option(nbytes: int, kl: float) -> Option:
    return Option(Float(), nbytes, kl)


def test_each_step_saves_most_for_its_bytes():
    options = {
        "sensitive": [option(10, 0.9), option(20, 0.1), option(80, 0.0)],
        "dull": [option(100, 0.1), option(200, 0.01), option(800, 0.0)],
    }
    assert cheapest(options, 2.0) == {"sensitive": option(10, 0.9), "dull": option(100, 0.1)}
    assert cheapest(options, 0.5) == {"sensitive": option(20, 0.1), "dull": option(100, 0.1)}
    assert cheapest(options, 0.0) == {"sensitive": option(80, 0.0), "dull": option(800, 0.0)}


def test_it_is_near_the_best_of_all_mixtures():
    options = {
        str(group): [option(50 + group, 0.1 * 1.7**group), option(100 + group, 0.01 * 1.5**group), option(400, 0)]
        for group in range(6)
    }
    for budget in (0.02, 0.1, 0.5):
        chosen = cheapest(options, budget)
        assert sum(o.kl for o in chosen.values()) <= budget
        best = min(
            sum(o.nbytes for o in mixture)
            for mixture in product(*options.values())
            if sum(o.kl for o in mixture) <= budget
        )
        assert sum(o.nbytes for o in chosen.values()) <= 1.25 * best


@pytest.fixture(scope="module")
def calibration(tmp_path_factory):
    checkpoint, _ = make_checkpoint(tmp_path_factory.mktemp("checkpoint"), {})
    return Calibration(checkpoint, tokens=256, progress=False)


def bits_of(mixture) -> list[str]:
    return sorted(weights.split(" ")[0] for weights in mixture.describe().values())


def test_a_generous_budget_takes_the_smallest_formats_and_a_tiny_one_floats(calibration):
    generous = smallest_within(calibration, 100, [FOUR, EIGHT], progress=False)
    assert bits_of(generous) == ["32-bit", "4", "4", "4", "4", "8", "8"]  # the usual, two layers, and the table
    tiny = smallest_within(calibration, 1e-12, [FOUR, EIGHT], progress=False)
    assert bits_of(tiny) == ["32-bit"]


def test_without_calibration_it_is_measured_all_the_same(tmp_path):
    checkpoint, _ = make_checkpoint(tmp_path, {})
    mixture = smallest_within(Calibration(checkpoint, tokens=0, progress=False), 100, [FOUR, EIGHT], progress=False)
    assert bits_of(mixture) == ["32-bit", "4", "4", "4", "4", "8", "8"]


def test_a_budget_that_is_no_budget_is_refused(calibration):
    for budget in (0, -1, float("nan")):
        with pytest.raises(ExportError, match="above 0"):
            smallest_within(calibration, budget, [FOUR, EIGHT], progress=False)
