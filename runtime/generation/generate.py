"""The loop on token ids, for one sequence or many: one prefill each, then one token a step.

`LanguageModel` (text in, text out) runs the same scheduler.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence

from runtime.engine import sequence as sequences
from runtime.engine.kv_cache import KVCache
from runtime.engine.scheduler import Scheduler
from runtime.engine.sequence import Request
from runtime.engine.session import DecoderSession
from runtime.errors import OptionError
from runtime.sampling.logits_processors import LogitsProcessor
from runtime.sampling.logprobs import SampledToken
from runtime.sampling.sampler import Sampler, greedy

DEFAULT_BATCH_SIZE = 8


def generate_step(
    session: DecoderSession,
    prompt_ids: Sequence[int],
    *,
    max_new_tokens: int | None = None,
    sampler: Sampler = greedy,
    logits_processors: Sequence[LogitsProcessor] = (),
    stop_token_ids: Collection[int] | None = None,
    top_logprobs: int | None = None,
    cache: KVCache | None = None,
    prompt_lookup: bool = False,
    prefill_session: DecoderSession | None = None,
) -> Generator[SampledToken]:
    """Yield new tokens one at a time; N of them cost one prefill and N - 1 decodes.

    The loop ends before a stop token, or where the caller breaks: nothing more is computed then. Whenever it is left,
    the cache holds the prompt and all tokens yielded but the last.

    Args:
        session: an open graph.
        prompt_ids: at least one token; those that `cache` holds already are not among them.
        max_new_tokens: the most that may come; None for 256 or what the context has room for.
        sampler: from logits float32 [vocab_size] to an id.
        logits_processors: run before the sampler, in order, on all ids so far, those that the cache holds included.
        stop_token_ids: see Request: None for the model's own, () to go on beyond them.
        top_logprobs: give each token's log-probability, and those of this many likeliest ones; None for neither.
        cache: earlier tokens of the same sequence; a new one when not given.
        prompt_lookup: check guesses that are looked up in the text so far, several in one pass: faster where the output
            repeats the prompt, with the same tokens.
        prefill_session: runs the prompt instead: another precision of the same bundle, faster at many tokens at once.

    Raises:
        PromptError: no tokens, ids outside the vocabulary, or no room for one new token.
        OptionError: max_new_tokens below 1 or beyond the context; prompt_lookup in a session where it could change
            tokens (`DecoderSession.check_prompt_lookup`).
    """
    session.check_token_ids(prompt_ids)
    held = 0 if cache is None else cache.length
    limit = sequences.new_token_limit(session.shape, held + len(prompt_ids), max_new_tokens)
    if cache is None:
        cache = session.new_cache(len(prompt_ids) + limit)
    scheduler = Scheduler(session, prefill_session=prefill_session, max_running=1)
    sequence = scheduler.add(
        Request(
            [*cache.token_ids, *prompt_ids],
            limit,
            sampler,
            logits_processors,
            stop_token_ids,
            top_logprobs=top_logprobs,
            prompt_lookup=prompt_lookup,
            cache=cache,
        )
    )
    return _tokens(scheduler, sequence, cache)


def _tokens(scheduler: Scheduler, sequence: sequences.Sequence, cache: KVCache) -> Generator[SampledToken]:
    held = sequence.prompt_tokens - 1  # once the last token given out is not among them
    try:
        while sequence.finish_reason is None:
            for _, token in scheduler.step():
                if token is not None:
                    held += 1
                    yield token
        if sequence.error is not None:
            raise sequence.error
    finally:
        scheduler.cancel(sequence)
        cache.trim(min(cache.length, held))  # tokens that came with guesses may not have been given out


def generate_batch(
    session: DecoderSession, requests: Sequence[Request], *, batch_size: int = DEFAULT_BATCH_SIZE
) -> Iterator[sequences.Sequence]:
    """Run requests, at most `batch_size` at a time; yield each sequence when it has ended, in the order of ending.

    `index` tells which request it is, `new_ids` what came. A sequence's logits are those that it would have by itself,
    to the bit for int8 and to rounding for fp32 and q4 (with a cache of int8 that rounding may turn a step of it). q8
    scales activations over all rows of a pass, so there they depend on the company (docs/decisions/0013). In a session
    that is made batch-invariant all agree to the bit, since each takes its steps alone, at the price of the gain.

    Raises:
        PromptError, OptionError: at the call, before anything is computed, for any of the requests; and what a
            sequence's processors or sampler raise, when it has ended.
    """
    if batch_size < 1:
        raise OptionError(f"batch_size must be at least 1, not {batch_size}")
    scheduler = Scheduler(session, max_running=batch_size)
    for request in requests:
        scheduler.add(request)
    return _ended(scheduler)


def _ended(scheduler: Scheduler) -> Iterator[sequences.Sequence]:
    while scheduler.has_work:
        for sequence, _ in scheduler.step():
            if sequence.error is not None:
                raise sequence.error
            if sequence.finish_reason is not None:
                yield sequence
