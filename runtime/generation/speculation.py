"""Several tokens from one pass: guesses are checked together, and those that come true are kept.

A pass over the last token and k guesses gives the logits after each of them. Tokens are chosen from these one by one,
just as without guesses, with the same processors and the same random numbers, until a choice differs from the guess:
then the logits behind it belong to another text, and the cache forgets it. So every token is drawn from the model's own
distribution given the text before it, and nothing is rejected or drawn twice: with the same logits the tokens are the
same, greedy or sampled.

Whether the logits are the same is up to the kernels: a pass of several rows may round otherwise than one of a single
row, and int8 makes other texts of that. So guesses are checked only where they change nothing: in exact sessions, and
in fp32 and fp16, whose logits agree to a rounding of 4e-7 that nothing enlarges (docs/decisions/0012).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from runtime.engine.kv_cache import KVCache
from runtime.engine.session import DecoderSession
from runtime.errors import OptionError
from runtime.generation.choice import Choice
from runtime.generation.prompt_lookup import PromptLookup
from runtime.precisions import PRECISIONS, batch_invariant_names


def check_prompt_lookup(session: DecoderSession) -> None:
    """Raise OptionError where guesses could change what is generated, saying what does without."""
    if session.is_exact or PRECISIONS[session.precision].rounding_is_harmless:
        return
    invariant = batch_invariant_names()[0]
    raise OptionError(
        f"prompt lookup could change tokens in {session.precision}, which rounds several in a pass otherwise than one: "
        f"choose the precision {invariant} (`export run --precisions {invariant}` makes it), or "
        "int8 with `steady` (--steady), which costs a tenth of the speed or more"
    )


def speculate(
    session: DecoderSession,
    prompt_ids: Sequence[int],
    limit: int,
    choose: Choice,
    cache: KVCache,
    prefill_session: DecoderSession,
) -> Generator[int]:
    """`generate_step` with guesses from a PromptLookup: N tokens cost one prefill and at most N - 1 passes.

    Args:
        session: an open graph.
        prompt_ids: to prefill.
        limit: new tokens.
        choose: makes tokens of logits.
        cache: holds what stands before the prompt, in which is looked up too.
        prefill_session: runs the prompt.
    """
    lookup = PromptLookup([*cache.token_ids, *prompt_ids])
    token_id = choose(prefill_session.forward(prompt_ids, cache)[0])
    lookup.push(token_id)
    produced = 1
    yield token_id
    while produced < limit:
        guesses = lookup.guesses(limit - produced - 1)
        kept = cache.length
        rows = session.forward([token_id, *guesses], cache, num_logits_to_keep=0)
        try:
            for guess, logits in zip([*guesses, None], rows, strict=True):
                kept += 1  # the token that these logits follow
                token_id = choose(logits)
                lookup.push(token_id)
                produced += 1
                yield token_id
                if token_id != guess:
                    break
        finally:  # also where the caller leaves in the middle of the guesses
            cache.trim(kept)
