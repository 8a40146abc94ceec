"""Samplers: from logits to a token id, in NumPy.

The filters run in transformers' order (temperature, top-k, top-p, min-p, typical). They never sort the whole
vocabulary: a comparison with a threshold leaves a short list of candidates, and they work on that. Only top-p, which
needs the total, exponentiates the whole vocabulary, once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from runtime.errors import NumericError
from runtime.sampling.options import SamplingOptions

Sampler = Callable[[np.ndarray], int]

# Top-k: logits are taken in groups of this size, and each group's largest is compared first.
GROUP = 64
# Top-p: tokens less likely than about (1 - top_p) / TAIL are not candidates: there would have to be more than TAIL of
# them for one to be kept.
TAIL = 1000
# Top-p in a flat distribution: bins of 1/64 of a nat, the last one for all that is 64 nats below the likeliest.
BINS_A_NAT, BINS = 64, 4096


def make_sampler(options: SamplingOptions) -> Sampler:
    """Make a callable that draws one token id from logits float32 [vocab_size] and raises NumericError at NaN."""
    if options.temperature == 0:
        return greedy
    random = np.random.default_rng(options.seed)

    def sample(logits: np.ndarray) -> int:
        token_ids, probabilities = distribution(logits, options)
        return int(token_ids[_draw(probabilities, random.random())])

    return sample


def _draw(probabilities: np.ndarray, number: float) -> int:
    """The position at which the running sum of probabilities passes a number in [0, 1)."""
    start = 0
    if len(probabilities) > GROUP * GROUP:  # first among the sums of groups: a running sum over all is slow
        sums = np.cumsum(np.add.reduceat(probabilities, np.arange(0, len(probabilities), GROUP)))
        number *= sums[-1]
        group = min(int(np.searchsorted(sums, number, side="right")), len(sums) - 1)
        number -= sums[group - 1] if group else 0.0
        start = GROUP * group
        probabilities = probabilities[start : start + GROUP]
    position = int(np.searchsorted(np.cumsum(probabilities), number, side="right"))
    # Rounding may leave the last sum just below the number, and what cannot be drawn has no probability.
    return start + min(position, int(np.flatnonzero(probabilities)[-1]))


def greedy(logits: np.ndarray) -> int:
    """The likeliest token; the first one at a tie."""
    token_id = int(logits.argmax())
    check_finite(logits[token_id])
    return token_id


def distribution(logits: np.ndarray, options: SamplingOptions) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that may be drawn, with their probabilities.

    Args:
        logits: float32 [vocab_size].
        options: temperature must be above 0.

    Returns:
        token ids int64 [kept] and their probabilities [kept], which sum to one.

    Raises:
        NumericError: the logits are NaN or infinite, or every token is forbidden.
    """
    largest = logits.max()
    check_finite(largest)
    token_ids, scores = _candidates(logits, float(largest), options)
    if options.min_p > 0:
        token_ids, scores = _kept(scores >= np.log(options.min_p), token_ids, scores)
    if options.typical_p < 1:
        token_ids, scores = _typical(token_ids, scores, options.typical_p)
    weights = np.exp(scores)
    return token_ids, weights / weights.sum()


def most_likely(logits: np.ndarray, count: int) -> np.ndarray:
    """Ids of the `count` largest logits in descending order, the lower id first at a tie."""
    width = len(logits) // GROUP
    if count <= width // 2:
        # At least `count` logits are as large as the count-th largest of the groups' maxima.
        maxima = logits[: width * GROUP].reshape(GROUP, width).max(0)
        token_ids = np.flatnonzero(logits >= np.partition(maxima, width - count)[width - count])
    else:
        token_ids = np.arange(len(logits))
    return token_ids[np.argsort(-logits[token_ids], kind="stable")[:count]]


def check_finite(largest: np.floating) -> None:
    """Raise NumericError unless the largest logit is finite. NaN spreads to the maximum, so it stands for all."""
    if largest == -np.inf:
        raise NumericError("every token is forbidden: the logits processors together leave none to draw")
    if not np.isfinite(largest):
        raise NumericError("the model gave logits that are NaN or infinite; its weights or its export are broken")


def _candidates(logits: np.ndarray, largest: float, options: SamplingOptions) -> tuple[np.ndarray, np.ndarray]:
    """Ids that temperature, top-k and top-p keep, and their scores, with the likeliest at 0."""
    if 0 < options.top_k < len(logits):
        token_ids = most_likely(logits, options.top_k)
        scores = _scores(logits[token_ids], largest, options.temperature)
        if options.top_p < 1:
            mass = np.cumsum(np.exp(scores))
            kept = np.searchsorted(mass, options.top_p * mass[-1]) + 1
            return token_ids[:kept], scores[:kept]
        return token_ids, scores
    if options.top_p < 1:
        return _nucleus(logits, largest, options.temperature, options.top_p)
    if options.min_p > 0:
        token_ids = _at_least(logits, largest + options.temperature * float(np.log(options.min_p)))
        return token_ids, _scores(logits[token_ids], largest, options.temperature)
    return np.arange(len(logits)), _all_scores(logits, largest, options.temperature)


def _scores(logits: np.ndarray, largest: float, temperature: float) -> np.ndarray:
    """float64 [tokens]: distances below the likeliest, in nats."""
    with np.errstate(over="ignore"):  # infinitely far below it: never drawn
        scores: np.ndarray = (logits.astype(np.float64) - largest) / temperature
    return scores


def _all_scores(logits: np.ndarray, largest: float, temperature: float) -> np.ndarray:
    """`_scores` of the whole vocabulary, in float32: `exp` takes an eighth of the time there."""
    limits = np.finfo(np.float32)
    divisor = np.float32(min(max(temperature, float(limits.tiny)), float(limits.max)))
    with np.errstate(over="ignore"):
        scores: np.ndarray = (logits - np.float32(largest)) / divisor
    return scores


def _nucleus(logits: np.ndarray, largest: float, temperature: float, top_p: float) -> tuple[np.ndarray, np.ndarray]:
    """The smallest set of likeliest tokens that holds top_p of the probability (arXiv:1904.09751)."""
    scores = _all_scores(logits, largest, temperature)
    weights = np.exp(scores)
    needed = top_p * float(weights.sum())
    likely = np.flatnonzero(weights >= needed * (1 - top_p) / TAIL)
    if len(likely) <= TAIL:
        order = likely[np.argsort(-scores[likely], kind="stable")]
        kept = int(np.searchsorted(np.cumsum(weights[order], dtype=np.float64), needed)) + 1
        if kept <= len(order):
            return order[:kept], scores[order[:kept]]
    token_ids = _nucleus_by_bins(scores, weights, top_p)
    return token_ids, scores[token_ids]


def _nucleus_by_bins(scores: np.ndarray, weights: np.ndarray, top_p: float) -> np.ndarray:
    """Ids of a nucleus of many tokens: of bins by score, only the one in which the sum passes top_p is sorted."""
    bins = np.minimum(scores * np.float32(-BINS_A_NAT), np.float32(BINS)).astype(np.int32).astype(np.intp)
    mass = np.cumsum(np.bincount(bins, weights.astype(np.float64)))
    needed = top_p * mass[-1]
    edge = int(np.searchsorted(mass, needed))
    tied = np.flatnonzero(bins == edge)
    tied = tied[np.argsort(-scores[tied], kind="stable")]
    before = mass[edge - 1] if edge else 0.0
    kept = np.searchsorted(before + np.cumsum(weights[tied], dtype=np.float64), needed) + 1
    return np.concatenate([np.flatnonzero(bins < edge), tied[:kept]])


def _typical(token_ids: np.ndarray, scores: np.ndarray, typical_p: float) -> tuple[np.ndarray, np.ndarray]:
    """The tokens whose surprise is nearest to the entropy and that hold typical_p together (arXiv:2202.00666)."""
    token_ids, scores = _kept(scores > -np.inf, token_ids, scores)
    log_probabilities = scores - np.log(np.exp(scores).sum())
    probabilities = np.exp(log_probabilities)
    entropy = -(probabilities * log_probabilities).sum()
    order = np.argsort(np.abs(log_probabilities + entropy), kind="stable")
    kept = order[: np.searchsorted(np.cumsum(probabilities[order]), typical_p) + 1]
    return token_ids[kept], scores[kept]


def _at_least(logits: np.ndarray, threshold: float) -> np.ndarray:
    """Ids of the logits that reach a threshold and are not -inf; the threshold may lie outside float32's range."""
    return np.flatnonzero(logits >= max(threshold, float(np.finfo(np.float32).min)))


def _kept(mask: np.ndarray, token_ids: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return token_ids[mask], scores[mask]
