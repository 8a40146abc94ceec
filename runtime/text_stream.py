"""Token ids to chunks of text: what a stream is made of.

Puts together the loop on ids, the processors and the sampler, the detokenizer and the stop strings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from runtime.chunk import Chunk, FinishReason
from runtime.constraint import Constraint, GrammarVocabulary
from runtime.detokenizer import Detokenizer
from runtime.errors import OptionError
from runtime.generate import generate_step, new_token_limit
from runtime.logits_processors import LogitsProcessor, make_logits_processors
from runtime.prefix_cache import PrefixCache
from runtime.sampling import make_sampler
from runtime.sampling_options import SamplingOptions
from runtime.scoring import ScoredSampler
from runtime.session import DecoderSession
from runtime.stopping import StopStrings
from runtime.tokenizer import Tokenizer

IsCancelled = Callable[[], bool]


class TextStream:
    """One generation. Making it checks everything that can be checked; iterating over `chunks()` computes.

    Args:
        session: runs the graph.
        tokenizer: of the same bundle.
        prompt_ids: the prompt, whole.
        options: how tokens are drawn and when the text ends.
        stop_token_ids: where it ends, unless the options say.
        vocabulary: makes what a constraint needs; called only for one.
        logits_processors: the caller's own, run after those of the options.
        is_cancelled: asked before every token; the stream ends once it says yes. Any thread may make it so.
        lock: held while a token is computed, so that threads may share a session.
        prefix: computed tokens of an earlier stream to go on from; it takes in this one's. None for a new cache.

    Attributes:
        held_tokens: how many of the prompt's tokens need not be computed.
        new_ids: the tokens so far, without the one that stopped it.

    Raises:
        PromptError, OptionError, ConstraintError: what was asked for cannot be done.
    """

    def __init__(
        self,
        session: DecoderSession,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        options: SamplingOptions,
        *,
        stop_token_ids: frozenset[int],
        vocabulary: Callable[[], GrammarVocabulary],
        logits_processors: Sequence[LogitsProcessor] = (),
        is_cancelled: IsCancelled | None = None,
        lock: AbstractContextManager[object],
        prefix: PrefixCache | None = None,
    ) -> None:
        session.check_token_ids(prompt_ids)
        self._tokenizer = tokenizer
        self._prompt_ids = list(prompt_ids)
        self._prefix = prefix
        self._is_cancelled = is_cancelled or _never
        self._lock = lock
        self._stop_strings = StopStrings(options.stop_strings)
        self._stop_ids = stop_token_ids if options.stop_token_ids is None else frozenset(options.stop_token_ids)
        self._limit = _limit(session, options, len(prompt_ids), self._stop_ids)
        processors = make_logits_processors(
            options,
            prompt_tokens=len(prompt_ids),
            vocab_size=session.shape.vocab_size,
            stop_token_ids=self._stop_ids,
        )
        self._constraint: Constraint | None = None
        if options.json_schema is not None or options.regex is not None:
            self._constraint = Constraint(
                vocabulary(), options, prompt_tokens=len(prompt_ids), stop_token_ids=self._stop_ids
            )
            processors.append(self._constraint.process)
        self.new_ids: list[int] = []
        self.held_tokens = prefix.keep_prefix_of(prompt_ids) if prefix is not None else 0
        self._scored = ScoredSampler(
            make_sampler(options),
            [*processors, *logits_processors],
            top_logprobs=options.top_logprobs,
            held_ids=self._prompt_ids[: self.held_tokens],
        )
        self._steps = generate_step(
            session,
            self._prompt_ids[self.held_tokens :],
            max_new_tokens=self._limit,
            sampler=self._scored.sample,
            logits_processors=[self._scored.process],
            cache=prefix.cache if prefix is not None else None,
        )

    def chunks(self) -> Iterator[Chunk]:
        """The pieces as they come. Closing the iterator stops the computation."""
        try:
            yield from self._chunks()
        finally:
            if self._prefix is not None:
                self._prefix.hold(self._prompt_ids + self.new_ids)

    @property
    def is_cut(self) -> bool:
        """Whether a stop string ended the text, so that it is shorter than that of the new ids."""
        return self._stop_strings.found

    def _chunks(self) -> Iterator[Chunk]:
        detokenizer = Detokenizer(self._tokenizer, self._context())
        reason: FinishReason = "stop"
        while True:
            if self._is_cancelled():
                reason = "cancelled"
                break
            with self._lock:
                token_id = next(self._steps)
            logprob, top_logprobs = self._scored.pop()
            if token_id in self._stop_ids:
                break
            self.new_ids.append(token_id)
            text = self._stop_strings.push(detokenizer.push(token_id))
            finished = self._finished()
            if finished is not None and not self._stop_strings.found:
                text += self._rest(detokenizer)
            if self._stop_strings.found:
                finished = "stop"
            yield Chunk(text, token_id, finished, logprob, top_logprobs)
            if finished is not None:
                return
        rest = self._rest(detokenizer)
        yield Chunk(rest, None, "stop" if self.is_cut else reason)

    def _context(self) -> list[int]:
        """The ids whose text the new one follows.

        A SentencePiece decoder drops a space that begins a text. A grammar has counted it, so a constrained text never
        begins one.
        """
        if self._constraint is not None and not self._tokenizer.decode(self._prompt_ids):
            return [*self._prompt_ids, *self._tokenizer.encode(".", add_special_tokens=False)]
        return self._prompt_ids

    def _finished(self) -> FinishReason | None:
        if self._constraint is not None:
            self._constraint.follow(self.new_ids)
            if self._constraint.is_finished:
                return "stop"
        return "length" if len(self.new_ids) == self._limit else None

    def _rest(self, detokenizer: Detokenizer) -> str:
        """The text held back so far, up to a stop string that it may complete."""
        rest = self._stop_strings.push(detokenizer.flush())
        return rest if self._stop_strings.found else rest + self._stop_strings.flush()


def _never() -> bool:
    return False


def _limit(
    session: DecoderSession, options: SamplingOptions, prompt_tokens: int, stop_token_ids: frozenset[int]
) -> int:
    """How many tokens may come. Raises OptionError where the options do not fit the model or each other."""
    vocab_size = session.shape.vocab_size
    if not all(0 <= token_id < vocab_size for token_id in stop_token_ids):
        raise OptionError(f"stop_token_ids must lie in 0..{vocab_size - 1}")
    limit = new_token_limit(session, prompt_tokens, options.max_new_tokens)
    if options.min_new_tokens > limit:
        raise OptionError(f"min_new_tokens {options.min_new_tokens} is more than the {limit} that may come")
    return limit
