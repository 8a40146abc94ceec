"""Samplers: from logits to a token id, in NumPy.

The filters run in transformers' order (temperature, top-k, top-p, min-p) on a short list of candidates: the whole
vocabulary is never sorted, and only what is kept is exponentiated, so a draw costs a fraction of a model step.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from runtime.errors import NumericError
from runtime.sampling_options import SamplingOptions

Sampler = Callable[[np.ndarray], int]
# Tokens first looked at for top-p without top-k; widened until they hold enough probability.
TOP_P_CANDIDATES = 256


def make_sampler(options: SamplingOptions) -> Sampler:
    """A callable that draws one token id from logits float32 [vocab_size]. It raises NumericError at NaN."""
    if options.temperature == 0:
        return greedy
    random = np.random.default_rng(options.seed)

    def sample(logits: np.ndarray) -> int:
        token_ids, probabilities = distribution(logits, options)
        position = int(np.searchsorted(np.cumsum(probabilities), random.random(), side="right"))
        # Rounding may leave the last sum just below the number drawn.
        return int(token_ids[min(position, len(token_ids) - 1)])

    return sample


def greedy(logits: np.ndarray) -> int:
    """The likeliest token; the first one at a tie."""
    token_id = int(logits.argmax())
    _check_finite(logits[token_id])
    return token_id


def distribution(logits: np.ndarray, options: SamplingOptions) -> tuple[np.ndarray, np.ndarray]:
    """What a draw chooses from, likeliest first where something was dropped.

    Args:
        logits: float32 [vocab_size].
        options: temperature must be above 0.

    Returns:
        token ids int64 [kept] and their probabilities float64 [kept], which sum to one.
    """
    scores = _tempered(logits, options.temperature)
    if options.top_k:
        token_ids = _largest(scores, options.top_k)
        log_total = _log_sum_exp(scores[token_ids])
    else:
        log_total = _log_sum_exp(scores)
        token_ids = _likeliest(scores, log_total, options)
    scores = scores[token_ids].astype(np.float64)
    if options.top_p < 1:
        mass = np.cumsum(np.exp(scores - log_total))
        scores = scores[: np.searchsorted(mass, options.top_p) + 1]
    if options.min_p > 0:
        scores = scores[scores >= scores[0] + np.log(options.min_p)]
    return token_ids[: len(scores)], np.exp(scores - _log_sum_exp(scores))


def _tempered(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Logits below the largest one, over the temperature, which may lie beyond what float32 holds."""
    largest = logits.max()
    _check_finite(largest)
    limits = np.finfo(np.float32)
    divisor = np.float32(min(max(temperature, float(limits.tiny)), float(limits.max)))
    with np.errstate(over="ignore"):  # infinitely far below the largest: never drawn
        scores: np.ndarray = (logits - largest) / divisor
    return scores


def _likeliest(scores: np.ndarray, log_total: float, options: SamplingOptions) -> np.ndarray:
    """Ids of all tokens that top-p and min-p can keep, without sorting the vocabulary."""
    if options.min_p > 0:  # a threshold on probabilities is one on scores
        return _largest(scores, int(np.count_nonzero(scores >= scores.max() + np.log(options.min_p))))
    if options.top_p == 1:  # nothing is dropped, so nothing need be in order
        return np.arange(len(scores))
    count = TOP_P_CANDIDATES
    while True:
        token_ids = _largest(scores, count)
        if len(token_ids) == len(scores) or np.exp(scores[token_ids] - log_total).sum() > options.top_p:
            return token_ids
        count *= 8


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Ids of the `count` largest scores in descending order, the lower id first at a tie."""
    token_ids = np.arange(len(scores))
    if count < len(scores):
        token_ids = np.sort(np.argpartition(-scores, count - 1)[:count])
    ordered: np.ndarray = token_ids[np.argsort(-scores[token_ids], kind="stable")]
    return ordered


def _log_sum_exp(scores: np.ndarray) -> float:
    largest = scores.max()
    return float(largest + np.log(np.exp(scores - largest).sum()))


def _check_finite(largest: np.floating) -> None:
    """NaN spreads to the maximum, so one number tells of all."""
    if not np.isfinite(largest):
        raise NumericError("the model gave logits that are NaN or infinite; its weights or its export are broken")
