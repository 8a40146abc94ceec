"""The generation loop on token ids: one prefill, then one token a step.

`LanguageModel` (text in, text out) stands on it. Knows no text.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from runtime.bundle import ModelShape
from runtime.engine.kv_cache import KVCache
from runtime.engine.session import DecoderSession
from runtime.errors import OptionError, PromptError
from runtime.generation.choice import Choice
from runtime.generation.speculation import check_prompt_lookup, speculate
from runtime.sampling.logits_processors import LogitsProcessor
from runtime.sampling.sampler import Sampler, greedy

DEFAULT_MAX_NEW_TOKENS = 256


def generate_step(
    session: DecoderSession,
    prompt_ids: Sequence[int],
    *,
    max_new_tokens: int | None = None,
    sampler: Sampler = greedy,
    logits_processors: Sequence[LogitsProcessor] = (),
    cache: KVCache | None = None,
    prompt_lookup: bool = False,
    prefill_session: DecoderSession | None = None,
) -> Generator[int]:
    """Yield new token ids one at a time; N of them cost one prefill and N - 1 decodes.

    Stop tokens are the caller's: break, and nothing more is computed. Whenever the loop is left, the cache holds the
    prompt and all tokens yielded but the last.

    Args:
        session: an open graph.
        prompt_ids: at least one token; those that `cache` holds already are not among them.
        max_new_tokens: at most so many; None for 256 or what the context has room for.
        sampler: from logits float32 [vocab_size] to an id.
        logits_processors: run before the sampler, in order, on all ids so far, those that the cache holds included.
        cache: earlier tokens of the same sequence; a new one when not given.
        prompt_lookup: check guesses that are looked up in the text so far, several in one pass: faster where the output
            repeats the prompt, with the same tokens.
        prefill_session: runs the prompt instead: another precision of the same bundle, faster at many tokens at once.

    Raises:
        PromptError: no tokens, ids outside the vocabulary, or no room for one new token.
        OptionError: max_new_tokens below 1 or beyond the context; prompt_lookup in a session where it could change
            tokens (`check_prompt_lookup`).
    """
    session.check_token_ids(prompt_ids)
    if prompt_lookup:
        check_prompt_lookup(session)
    held = cache.length if cache is not None else 0
    limit = new_token_limit(session.shape, held + len(prompt_ids), max_new_tokens)
    if cache is None:
        cache = session.new_cache(len(prompt_ids) + limit)
    choose = Choice(sampler, logits_processors, [*cache.token_ids, *prompt_ids])
    run = speculate if prompt_lookup else _steps
    return run(session, prompt_ids, limit, choose, cache, prefill_session or session)


def new_token_limit(shape: ModelShape, prompt_tokens: int, max_new_tokens: int | None) -> int:
    """How many tokens may be generated after so many. Raises as `generate_step` does."""
    context = shape.max_position_embeddings
    room = context - prompt_tokens
    if room < 1:
        raise PromptError(
            f"the prompt has {prompt_tokens} tokens and the model's context is {context}: "
            "shorten it until there is room for a new one"
        )
    if max_new_tokens is None:
        return min(DEFAULT_MAX_NEW_TOKENS, room)
    if max_new_tokens < 1:
        raise OptionError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    if max_new_tokens > room:
        raise OptionError(
            f"max_new_tokens {max_new_tokens} and a prompt of {prompt_tokens} tokens exceed the model's context of "
            f"{context}: ask for at most {room}"
        )
    return max_new_tokens


def _steps(
    session: DecoderSession,
    prompt_ids: Sequence[int],
    limit: int,
    choose: Choice,
    cache: KVCache,
    prefill_session: DecoderSession,
) -> Generator[int]:
    token_id = choose(prefill_session.forward(prompt_ids, cache)[0])
    yield token_id
    for _ in range(limit - 1):
        token_id = choose(session.forward([token_id], cache)[0])
        yield token_id
