"""Which tokens and which layers lose most, worked out by hand; and windows side by side count like one by one."""

from __future__ import annotations

import numpy as np
import pytest

from export.comparison.compare import compare
from export.comparison.drift import Drift
from export.comparison.outliers import Outliers
from export.comparison.predict import Workers
from export.comparison.predictions import Predictions
from export.comparison.token_losses import Choice, Group, WorstToken, measure_token_losses, token_texts
from runtime import Bundle
from runtime.evaluation.logits import Logits
from runtime.text.tokenizer import Tokenizer

TEXTS = [" the", "ing", "7", "\n", "!"]
# Three tokens are predicted in the first window, two in the second.
WINDOWS = [[0, 1, 2, 0], [0, 4, 3]]
EVEN = np.log(np.full((5, 5), 0.2))


def predictions(rows: np.ndarray, reference: np.ndarray | None = None) -> Predictions:
    counted, start = Predictions(), 0
    for window in WINDOWS:
        part = slice(start, start + len(window) - 1)
        expected = None if reference is None else Logits(reference[part].astype(np.float32), threads=1)
        counted.add(Logits(rows[part].astype(np.float32), threads=1), np.array(window[1:]), expected)
        start = part.stop
    return counted


@pytest.fixture
def losses():
    """A candidate that differs at two positions: KL ln(0.2 / 0.1) ... worked out below."""
    found = EVEN.copy()
    found[1] = np.log([0.6, 0.1, 0.1, 0.1, 0.1])
    found[4] = np.log([0.2, 0.3, 0.1, 0.2, 0.2])
    return measure_token_losses(WINDOWS, predictions(EVEN), predictions(found, EVEN), TEXTS.__getitem__)


FIRST = 0.2 * np.log(0.2 / 0.6) + 0.8 * np.log(0.2 / 0.1)
SECOND = 0.2 * np.log(0.2 / 0.3) + 0.2 * np.log(0.2 / 0.1)


def test_the_worst_token_comes_first_with_its_context_and_what_both_found(losses):
    assert losses.worst[0] == WorstToken(
        pytest.approx(FIRST, rel=1e-5), [0, 1], 2, Choice(0, pytest.approx(0.2)), Choice(0, pytest.approx(0.6))
    )
    assert losses.worst[1].context == [0, 4]
    assert losses.worst[1].token_id == 3
    assert losses.worst[1].found == Choice(1, pytest.approx(0.3))
    assert losses.worst_shares["0.1"] == pytest.approx(FIRST / (FIRST + SECOND))


def test_groups_hold_every_token_once(losses):
    assert losses.by_kind == [
        Group("number", 1, pytest.approx(FIRST)),
        Group("space", 1, pytest.approx(SECOND)),
        Group("new word", 1, pytest.approx(0, abs=1e-7)),
        Group("within a word", 1, pytest.approx(0, abs=1e-7)),
        Group("other signs", 1, pytest.approx(0, abs=1e-7)),
    ]
    assert [(group.label, group.tokens) for group in losses.by_position] == [("1", 2), ("2-3", 3)]
    assert losses.by_position[1].kl == pytest.approx((FIRST + SECOND) / 3)
    assert [(group.label, group.tokens) for group in losses.by_confidence] == [("10-30 %", 5)]


def test_a_tokens_text_keeps_the_space_before_it(stories260k_bundle):
    bundle = Bundle.open(stories260k_bundle)
    text_of = token_texts(bundle)
    token_ids = Tokenizer(bundle).encode("once upon a time", add_special_tokens=False)
    assert "".join(map(text_of, token_ids)) == " once upon a time"


def test_outliers_are_the_largest_over_the_median_of_a_token():
    quiet = np.array([1.0, -1.0, 1.0, 2.0], np.float32)
    loud = np.array([1.0, 1.0, -90.0, 1.0], np.float32)
    found = Outliers.of([np.stack([quiet, quiet, loud])], [7, 8, 9])
    assert found == Outliers([90.0], [2.0], [pytest.approx((1 + 1 + 1 + 16) / 4 / (7 / 4) ** 2)], [3], [2], [9])


def test_what_adds_most_to_the_drift_comes_first():
    drift = Drift(0.1, [0.15, 0.4], [0.2, 0.45])
    assert [name for name, _ in drift.growth][:2] == ["layer 1 attention", "embedding"]
    assert drift.growth[0][1] == pytest.approx(0.2)
    assert sum(growth for _, growth in drift.growth) == pytest.approx(0.45)


def test_windows_side_by_side_have_the_figures_that_they_have_one_by_one(tiny_bundle):
    token_ids = np.random.default_rng(0).integers(3, 320, 300).tolist()
    alone, together = (
        compare(Bundle.open(tiny_bundle), token_ids=token_ids, window=40, threads=threads, progress=False)
        for threads in (1, 4)
    )
    for name, figures in alone.precisions.items():
        assert together.precisions[name].kl == pytest.approx(figures.kl, rel=1e-6, abs=1e-12)
        assert together.precisions[name].perplexity_interval == pytest.approx(figures.perplexity_interval)


@pytest.mark.parametrize(
    ("windows", "vocab_size", "threads", "expected"),
    [(98, 49_152, 2, Workers(2, 1)), (1, 49_152, 8, Workers(1, 8)), (3, 49_152, 8, Workers(3, 2)),
     (98, 49_152, 64, Workers(4, 16)), (98, 2_000_000, 8, Workers(1, 8))],
)  # fmt: skip
def test_threads_are_shared_by_as_many_windows_as_memory_holds(windows, vocab_size, threads, expected):
    assert Workers.of([[0] * 512] * windows, vocab_size, threads) == expected
