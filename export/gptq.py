"""GPTQ: rounding one input at a time, each error made good by the inputs still to come (arXiv:2210.17323).

A layer's output error is `E H E^T`, with E the error of its weights and H the second moment of its inputs. Rounding to
the nearest makes E small; this makes the output error small.
"""

from __future__ import annotations

import numpy as np

# Of the mean of H's diagonal, added to it: the paper's value; from 0.001 to 0.05 the results are the same.
DAMPING = 0.01
# Inputs whose errors are passed on to the rest together, as one matrix product.
COLUMNS_AT_ONCE = 64


def round_with_feedback(weight: np.ndarray, scales: np.ndarray, hessian: np.ndarray, lowest: int) -> np.ndarray:
    """Integers whose products with the scales stand for the weights, as the layer's inputs see it.

    Inputs are taken in the order of their size: the largest while there are most others left to make good their errors.

    Args:
        weight: float32 [out_features, in_features].
        scales: float32 [out_features, in_features], not zero; each weight's own.
        hessian: [in_features, in_features], the mean of x x^T over the layer's inputs x.
        lowest: the integers are in lowest .. -lowest - 1.

    Returns:
        float32 [out_features, in_features], whole numbers.
    """
    order = np.argsort(-np.diag(hessian), kind="stable")
    root = _inverse_root(hessian[np.ix_(order, order)])
    left, steps = weight[:, order].astype(np.float32), scales[:, order]
    integers = np.empty_like(left)
    columns = len(order)
    for start in range(0, columns, COLUMNS_AT_ONCE):
        end = min(start + COLUMNS_AT_ONCE, columns)
        errors = np.empty((len(left), end - start), np.float32)
        for column in range(start, end):
            step = steps[:, column]
            integers[:, column] = np.clip(np.rint(left[:, column] / step), lowest, -lowest - 1)
            error = (left[:, column] - integers[:, column] * step) / root[column, column]
            left[:, column + 1 : end] -= np.outer(error, root[column, column + 1 : end])
            errors[:, column - start] = error
        left[:, end:] -= errors @ root[start:end, end:]
    restored = np.empty_like(integers)
    restored[:, order] = integers
    return restored


def _inverse_root(hessian: np.ndarray) -> np.ndarray:
    """The upper triangular R with R^T R = H^-1, float32; H is made definite first."""
    matrix = hessian.astype(np.float64)
    diagonal = np.einsum("ii->i", matrix)
    diagonal[diagonal == 0] = 1  # an input that is always zero: whatever its weight, nothing depends on it
    diagonal += DAMPING * diagonal.mean()
    return np.linalg.cholesky(np.linalg.inv(matrix)).T.astype(np.float32)
