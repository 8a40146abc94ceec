"""Logits processors: plain callables that change the scores of the next token before one is drawn.

A processor takes the ids so far (prompt and output) and the logits, and returns logits; it does not change its input.
Users may add their own: `model.stream(prompt, logits_processors=[mine])`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from runtime.errors import OptionError
from runtime.sampling.options import SamplingOptions

# (token_ids so far, logits float32 [vocab_size]) -> logits float32 [vocab_size]
LogitsProcessor = Callable[[Sequence[int], np.ndarray], np.ndarray]


def make_logits_processors(
    options: SamplingOptions,
    *,
    prompt_tokens: int,
    vocab_size: int,
    stop_token_ids: Collection[int],
    unused_token_ids: Sequence[int] = (),
) -> list[LogitsProcessor]:
    """The processors that the options ask for, in transformers' order; none for the defaults.

    Args:
        options: see there.
        prompt_tokens: the number of ids, at the beginning of those so far, that are the prompt.
        vocab_size: the number of logits.
        stop_token_ids: min_new_tokens keeps them from being drawn.
        unused_token_ids: in ascending order, the ids that have a logit and no token (`Tokenizer.unused_token_ids`);
            they are never drawn, apart from stop tokens.

    Raises:
        OptionError: a token id outside the vocabulary.
    """
    processors: list[LogitsProcessor] = []
    if options.logit_bias:
        processors.append(logit_bias(options.logit_bias, vocab_size))
    if options.repetition_penalty != 1:
        processors.append(repetition_penalty(options.repetition_penalty))
    if options.frequency_penalty or options.presence_penalty:
        processors.append(occurrence_penalty(options.frequency_penalty, options.presence_penalty, prompt_tokens))
    if options.no_repeat_ngram_size:
        processors.append(no_repeat_ngram(options.no_repeat_ngram_size))
    if options.min_new_tokens and stop_token_ids:
        processors.append(min_new_tokens(options.min_new_tokens, prompt_tokens, stop_token_ids))
    if any(token_id in unused_token_ids for token_id in stop_token_ids):
        unused_token_ids = [token_id for token_id in unused_token_ids if token_id not in stop_token_ids]
    if unused_token_ids:
        processors.append(suppress_tokens(unused_token_ids))
    return processors


def logit_bias(biases: Mapping[int, float], vocab_size: int) -> LogitsProcessor:
    """Add to the logits of some tokens; -inf forbids one.

    Raises:
        OptionError: a token id outside the vocabulary.
    """
    for token_id in biases:
        if not 0 <= token_id < vocab_size:
            raise OptionError(f"logit_bias has a token id {token_id}; ids lie in 0..{vocab_size - 1}")
    token_ids = np.fromiter(biases.keys(), np.int64, len(biases))
    values = np.fromiter(biases.values(), np.float32, len(biases))

    def process(_: Sequence[int], logits: np.ndarray) -> np.ndarray:
        processed = logits.copy()
        processed[token_ids] += values
        return processed

    return process


def repetition_penalty(penalty: float) -> LogitsProcessor:
    """Divide positive and multiply negative logits of tokens that have occurred (Keskar et al., arXiv:1909.05858).

    Args:
        penalty: above 1 discourages repetition, 1 changes nothing.
    """
    if not 0 < penalty < float("inf"):
        raise OptionError(f"repetition_penalty must be above 0 and finite, not {penalty}")

    def process(token_ids: Sequence[int], logits: np.ndarray) -> np.ndarray:
        seen = np.asarray(token_ids, np.int64)
        scores = logits[seen].astype(np.float64)
        processed = logits.copy()
        with np.errstate(over="ignore"):  # a score beyond float32 becomes infinite: -inf forbids the token
            processed[seen] = np.where(scores < 0, scores * penalty, scores / penalty)
        return processed

    return process


def occurrence_penalty(frequency: float, presence: float, prompt_tokens: int) -> LogitsProcessor:
    """Lower the logits of generated tokens: by `frequency` for each occurrence, and by `presence` once.

    The formula is that of OpenAI's API: logit -= count * frequency + (count > 0) * presence. Tokens of the prompt do
    not count.
    """

    def process(token_ids: Sequence[int], logits: np.ndarray) -> np.ndarray:
        seen, counts = np.unique(np.asarray(token_ids[prompt_tokens:], np.int64), return_counts=True)
        processed = logits.copy()
        processed[seen] -= (counts * frequency + presence).astype(np.float32)
        return processed

    return process


def no_repeat_ngram(size: int) -> LogitsProcessor:
    """Forbid each token that would complete a run of `size` tokens which has occurred before (arXiv:1705.04304)."""
    if size < 1:
        raise OptionError(f"no_repeat_ngram_size must be at least 1, not {size}")

    def process(token_ids: Sequence[int], logits: np.ndarray) -> np.ndarray:
        if len(token_ids) < size:
            return logits
        ids = np.asarray(token_ids, np.int64)
        runs = np.lib.stride_tricks.sliding_window_view(ids, size)
        is_repeated = (runs[:, : size - 1] == ids[len(ids) - size + 1 :]).all(axis=1)
        processed = logits.copy()
        processed[runs[is_repeated, -1]] = -np.inf
        return processed

    return process


def suppress_tokens(token_ids: Sequence[int]) -> LogitsProcessor:
    """Forbid some tokens.

    Args:
        token_ids: at least one, in ascending order, each below the vocabulary's size.
    """
    is_run = token_ids[-1] - token_ids[0] == len(token_ids) - 1
    suppressed = slice(token_ids[0], token_ids[-1] + 1) if is_run else np.asarray(token_ids, np.int64)

    def process(_: Sequence[int], logits: np.ndarray) -> np.ndarray:
        processed = logits.copy()
        processed[suppressed] = -np.inf
        return processed

    return process


def min_new_tokens(count: int, prompt_tokens: int, stop_token_ids: Collection[int]) -> LogitsProcessor:
    """Forbid the stop tokens until `count` tokens have been generated."""
    stop_ids = np.fromiter(stop_token_ids, np.int64, len(stop_token_ids))

    def process(token_ids: Sequence[int], logits: np.ndarray) -> np.ndarray:
        if len(token_ids) - prompt_tokens >= count:
            return logits
        processed = logits.copy()
        processed[stop_ids] = -np.inf
        return processed

    return process
