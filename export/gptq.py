"""GPTQ: rounding one input at a time, each error made good by the inputs still to come (arXiv:2210.17323).

A layer's output error is `E H E^T`, with E the error of its weights and H the second moment of its inputs. Rounding to
the nearest makes E small; this makes the output error small.
"""

from __future__ import annotations

import numpy as np
import torch

# Of the mean of H's diagonal, added to it: the paper's value; from 0.001 to 0.05 the results are the same.
DAMPING = 0.01
# Inputs whose errors are passed on to the rest together, as one matrix product.
COLUMNS_AT_ONCE = 64
# Outputs are independent of each other; this many of them stay in the processor's cache while their inputs are rounded.
ROWS_AT_ONCE = 2048


def round_with_feedback(weight: np.ndarray, scales: np.ndarray, hessian: np.ndarray, lowest: int) -> np.ndarray:
    """Integers whose products with the scales stand for the weights, as the layer's inputs see it.

    Inputs are taken in the order of their size: the largest while there are most others left to make good their errors.

    Args:
        weight: float32 [out_features, in_features].
        scales: float32 [out_features, in_features] or [out_features, 1], not zero; each weight's own.
        hessian: [in_features, in_features], the mean of x x^T over the layer's inputs x.
        lowest: the integers are in lowest .. -lowest - 1.

    Returns:
        float32 [out_features, in_features], whole numbers.
    """
    order = np.argsort(-np.diag(hessian), kind="stable")
    root = _inverse_root(hessian[np.ix_(order, order)])
    integers = np.empty(weight.shape, np.float32)
    for start in range(0, len(weight), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        steps = np.broadcast_to(scales[rows], weight[rows].shape)
        # One input's weights lie side by side, [in_features, rows]: all that is done is done to one input at a time.
        left, steps = (np.ascontiguousarray(part.T[order], np.float32) for part in (weight[rows], steps))
        integers[rows, order] = _rounded(left, steps, root, lowest).T
    return integers


def _rounded(left: np.ndarray, steps: np.ndarray, root: np.ndarray, lowest: int) -> np.ndarray:
    """The integers, [in_features, rows]; overwrites `left`, the weights that are still to be stood for."""
    integers = np.empty_like(left)
    columns = len(left)
    for start in range(0, columns, COLUMNS_AT_ONCE):
        end = min(start + COLUMNS_AT_ONCE, columns)
        errors = np.empty((end - start, left.shape[1]), np.float32)
        for column in range(start, end):
            integers[column] = np.clip(np.rint(left[column] / steps[column]), lowest, -lowest - 1)
            error = (left[column] - integers[column] * steps[column]) / root[column, column]
            left[column + 1 : end] -= np.outer(root[column, column + 1 : end], error)
            errors[column - start] = error
        left[end:] -= root[start:end, end:].T @ errors
    return integers


def _inverse_root(hessian: np.ndarray) -> np.ndarray:
    """The upper triangular R with R^T R = H^-1, float32; H is made definite first."""
    matrix = torch.from_numpy(hessian).double()
    diagonal = matrix.diagonal()
    diagonal[diagonal == 0] = 1  # an input that is always zero: whatever its weight, nothing depends on it
    diagonal += DAMPING * diagonal.mean()
    # Cholesky from the last input to the first gives H = U U^T with U upper triangular, and R = U^-1.
    upper = torch.linalg.cholesky(matrix.flip(0, 1)).flip(0, 1)
    identity = torch.eye(len(matrix), dtype=torch.float64)
    root: np.ndarray = torch.linalg.solve_triangular(upper, identity, upper=True).float().numpy()
    return root
