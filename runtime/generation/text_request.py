"""From a prompt and sampling options to a request for the scheduler, and what makes text of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runtime.bundle import ModelShape
from runtime.engine.kv_cache import KVCache
from runtime.engine.sequence import FinishReason, Request, new_token_limit
from runtime.errors import OptionError
from runtime.generation.text_assembler import TextAssembler
from runtime.generation.text_delta import TextDelta
from runtime.sampling.constraint import Constraint, GrammarVocabulary
from runtime.sampling.logits_processors import LogitsProcessor, make_logits_processors
from runtime.sampling.logprobs import SampledToken
from runtime.sampling.options import SamplingOptions
from runtime.sampling.sampler import make_sampler
from runtime.text.tokenizer import Tokenizer


class TextRequest:
    """One text to generate, checked.

    Args:
        shape: of the model.
        tokenizer: of the same bundle.
        prompt_ids: the prompt, whole.
        options: how tokens are drawn and when the text ends.
        stop_token_ids: where it ends, unless the options say.
        vocabulary: makes what a constraint needs; called only for one.
        logits_processors: the caller's own, run after those of the options.
        prompt_lookup: see Request.
        cache: see Request.
        on_delta: told every piece of text as its token comes.

    Attributes:
        request: for a scheduler.
        assembler: what its tokens go through.
        limit: tokens at most.

    Raises:
        PromptError, OptionError, ConstraintError: what was asked for cannot be done.
    """

    def __init__(
        self,
        shape: ModelShape,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        options: SamplingOptions,
        *,
        stop_token_ids: frozenset[int],
        vocabulary: Callable[[], GrammarVocabulary],
        logits_processors: Sequence[LogitsProcessor] = (),
        prompt_lookup: bool = False,
        cache: KVCache | None = None,
        on_delta: Callable[[TextDelta], object],
    ) -> None:
        stops = stop_token_ids if options.stop_token_ids is None else frozenset(options.stop_token_ids)
        self.limit = _limit(shape, options, len(prompt_ids), stops)
        processors = make_logits_processors(
            options, prompt_tokens=len(prompt_ids), vocab_size=shape.vocab_size, stop_token_ids=stops
        )
        constraint: Constraint | None = None
        if options.json_schema is not None or options.regex is not None:
            constraint = Constraint(vocabulary(), options, prompt_tokens=len(prompt_ids), stop_token_ids=stops)
            processors.append(constraint.process)
        self.assembler = TextAssembler(tokenizer, prompt_ids, stop_strings=options.stop_strings, constraint=constraint)
        self._on_delta = on_delta
        self.request = Request(
            prompt_ids,
            self.limit,
            make_sampler(options),
            [*processors, *logits_processors],
            stops,
            self._on_token,
            options.top_logprobs,
            prompt_lookup,
            cache,
        )

    def _on_token(self, token: SampledToken) -> FinishReason | None:
        delta = self.assembler.push(token, is_last=len(self.assembler.new_ids) + 1 == self.limit)
        self._on_delta(delta)
        return delta.finish_reason


def _limit(shape: ModelShape, options: SamplingOptions, prompt_tokens: int, stop_token_ids: frozenset[int]) -> int:
    """How many tokens may come. Raises OptionError where the options do not fit the model or each other."""
    if not all(0 <= token_id < shape.vocab_size for token_id in stop_token_ids):
        raise OptionError(f"stop_token_ids must lie in 0..{shape.vocab_size - 1}")
    limit = new_token_limit(shape, prompt_tokens, options.max_new_tokens)
    if options.min_new_tokens > limit:
        raise OptionError(f"min_new_tokens {options.min_new_tokens} is more than the {limit} that may come")
    return limit
