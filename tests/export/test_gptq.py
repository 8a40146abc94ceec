"""GPTQ: less error at the layer's output than rounding to the nearest, and the same where there is nothing to gain."""

from __future__ import annotations

import numpy as np
import pytest

from export.gptq import round_with_feedback
from export.quantize import quantize_blockwise, restore_blockwise


def correlated_inputs(tokens: int, features: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(features, features)) / features**0.5
    return (random.normal(size=(tokens, features)) @ mixing).astype(np.float32)


def plain_gptq(weight: np.ndarray, step: float, hessian: np.ndarray) -> np.ndarray:
    """The paper's algorithm 1 as it reads, a column at a time, with the inverse itself updated (its equation 2)."""
    left = weight.astype(np.float64)
    hessian = hessian.astype(np.float64) + 0.01 * np.diag(hessian).mean() * np.eye(len(hessian))
    integers = np.zeros_like(left)
    for column in range(left.shape[1]):
        inverse = np.linalg.inv(hessian[column:, column:])
        integers[:, column] = np.clip(np.rint(left[:, column] / step), -8, 7)
        error = left[:, column] - integers[:, column] * step
        left[:, column:] -= np.outer(error, inverse[0] / inverse[0, 0])
    return integers


def test_it_is_the_papers_algorithm():
    x = correlated_inputs(500, 24)
    x *= np.linspace(2, 1, 24, dtype=np.float32) / x.std(0)  # inputs in the order of their size, so none is moved
    hessian = x.T @ x / len(x)
    weight = np.random.default_rng(1).normal(size=(6, 24)).astype(np.float32)
    found = round_with_feedback(weight, np.full_like(weight, 0.3), hessian, -8)
    assert np.array_equal(found, plain_gptq(weight, 0.3, hessian))


@pytest.mark.parametrize("features", [40, 64, 150], ids=lambda features: f"{features} inputs")
@pytest.mark.parametrize("bits", [4, 8])
def test_the_layers_output_is_closer_than_with_rounding_to_the_nearest(bits, features):
    x = correlated_inputs(2000, features)
    weight = np.random.default_rng(1).normal(size=(32, features)).astype(np.float32)

    def error(moment: np.ndarray | None) -> float:
        quantized = quantize_blockwise(weight, 32, bits, second_moment=moment)
        return float(np.square(x @ (restore_blockwise(*quantized, features, bits) - weight).T).sum())

    assert error(x.T @ x / len(x)) < 0.7 * error(None)


def test_inputs_that_do_not_know_of_each_other_leave_nothing_to_make_good():
    weight = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    nearest, scales = quantize_blockwise(weight, 16, 4)
    found, same_scales = quantize_blockwise(weight, 16, 4, second_moment=np.eye(32, dtype=np.float32))
    assert np.array_equal(found, nearest)
    assert np.array_equal(same_scales, scales)


def test_inputs_that_are_always_zero_break_nothing():
    x = correlated_inputs(100, 32)
    x[:, [3, 17]] = 0
    weight = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
    quantized, scales = quantize_blockwise(weight, 16, 4, second_moment=x.T @ x)
    assert np.isfinite(restore_blockwise(quantized, scales, 32, 4)).all()
