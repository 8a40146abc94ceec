"""From a prompt and sampling options to a request for the scheduler, and from its tokens to pieces of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runtime.bundle import ModelShape
from runtime.engine.kv_cache import KVCache
from runtime.engine.sequence import FinishReason, Request, new_token_limit
from runtime.errors import OptionError
from runtime.generation.text_delta import TextDelta
from runtime.sampling.constraint import Constraint, GrammarVocabulary
from runtime.sampling.logits_processors import LogitsProcessor, make_logits_processors
from runtime.sampling.logprobs import SampledToken
from runtime.sampling.options import DefaultLength, SamplingOptions
from runtime.sampling.sampler import make_sampler
from runtime.text.text_assembler import TextAssembler
from runtime.text.tokenizer import Tokenizer


class TextRequest:
    """One text to generate, checked; and what becomes of it.

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
        reuse_prompt: see Request.
        on_delta: told every piece of text as its token comes.

    Attributes:
        request: for a scheduler.
        limit: tokens at most.
        new_ids: the tokens so far, without the one that stopped the text.

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
        reuse_prompt: bool = True,
        on_delta: Callable[[TextDelta], object],
    ) -> None:
        stops = stop_token_ids if options.stop_token_ids is None else frozenset(options.stop_token_ids)
        self.limit = _limit(shape, options, len(prompt_ids), stops)
        processors = make_logits_processors(
            options,
            prompt_tokens=len(prompt_ids),
            vocab_size=shape.vocab_size,
            stop_token_ids=stops,
            unused_token_ids=tokenizer.unused_token_ids,
        )
        constraint: Constraint | None = None
        if options.json_schema is not None or options.regex is not None:
            constraint = Constraint(vocabulary(), options, prompt_tokens=len(prompt_ids), stop_token_ids=stops)
            processors.append(constraint.process)
        self._constraint = constraint
        self._text = TextAssembler(tokenizer, _context(tokenizer, prompt_ids, constraint), options.stop_strings)
        self._has_stop_strings = bool(options.stop_strings)
        self.new_ids: list[int] = []
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
            reuse_prompt,
        )

    @property
    def is_cut(self) -> bool:
        """Whether a stop string ended the text, so that it is shorter than that of the new ids."""
        return self._text.is_cut

    def end(self, reason: FinishReason) -> TextDelta:
        """The last piece of a text that ends without another token: what was held back."""
        rest = self._text.flush()
        return TextDelta(rest, None, "stop" if self.is_cut else reason)

    def _on_token(self, token: SampledToken) -> FinishReason | None:
        token_id, logprob, top_logprobs = token
        self.new_ids.append(token_id)
        text = self._text.push(token_id)
        reason: FinishReason | None = "length" if len(self.new_ids) == self.limit else None
        if self._constraint is not None:
            self._constraint.follow(self.new_ids)
            if self._constraint.is_finished:
                reason = "stop"
            elif reason == "length" and not self._constraint.is_complete:
                reason = "incomplete"
        if reason is not None:
            text += self._text.flush()
        if self._has_stop_strings and self.is_cut:
            reason = "stop"
        self._on_delta(TextDelta(text, token_id, reason, logprob, top_logprobs))
        return reason


def _context(tokenizer: Tokenizer, prompt_ids: Sequence[int], constraint: Constraint | None) -> list[int]:
    """The ids whose text the new one follows.

    A SentencePiece decoder drops a space that begins a text. A grammar has counted it, so a constrained text never
    begins one.
    """
    if constraint is not None and not tokenizer.decode(prompt_ids):
        return [*prompt_ids, *tokenizer.encode(".", add_special_tokens=False)]
    return list(prompt_ids)


def _limit(shape: ModelShape, options: SamplingOptions, prompt_tokens: int, stop_token_ids: frozenset[int]) -> int:
    """How many tokens may come.

    Raises:
        OptionError: the options do not fit the model or each other.
        PromptError: the prompt leaves no room for a token.
    """
    if not all(0 <= token_id < shape.vocab_size for token_id in stop_token_ids):
        raise OptionError(f"stop_token_ids must lie in 0..{shape.vocab_size - 1}")
    asked = options.max_new_tokens
    limit = new_token_limit(shape, prompt_tokens, None if isinstance(asked, DefaultLength) else asked)
    if isinstance(asked, DefaultLength):
        limit = asked.new_tokens(prompt_tokens, shape.max_position_embeddings)
    if options.min_new_tokens > limit and not isinstance(options.min_new_tokens, DefaultLength):
        raise OptionError(f"min_new_tokens {options.min_new_tokens} is more than the {limit} that may come")
    return limit
