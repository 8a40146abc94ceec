"""One text under way: how its tokens are drawn, what they say, and when it ends.

Puts together the processors and the sampler, the detokenizer and the stop strings. Knows no graph: tokens come one by
one from whoever runs it, alone or in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from runtime.bundle import ModelShape
from runtime.errors import OptionError
from runtime.generation.chunk import Chunk, FinishReason
from runtime.generation.generate import new_token_limit
from runtime.sampling.constraint import Constraint, GrammarVocabulary
from runtime.sampling.logits_processors import LogitsProcessor, make_logits_processors
from runtime.sampling.logprobs import ScoredSampler
from runtime.sampling.options import SamplingOptions
from runtime.sampling.sampler import make_sampler
from runtime.text.detokenizer import Detokenizer
from runtime.text.stop_strings import StopStrings
from runtime.text.tokenizer import Tokenizer


class Continuation:
    """The text after one prompt.

    Args:
        shape: of the model.
        tokenizer: of the same bundle.
        prompt_ids: the prompt, whole.
        options: how tokens are drawn and when the text ends.
        stop_token_ids: where it ends, unless the options say.
        vocabulary: makes what a constraint needs; called only for one.
        logits_processors: the caller's own, run after those of the options.

    Attributes:
        limit: tokens at most.
        stop_token_ids: where it ends.
        new_ids: the tokens so far, without the one that stopped it.

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
    ) -> None:
        self._stop_strings = StopStrings(options.stop_strings)
        self.stop_token_ids = stop_token_ids if options.stop_token_ids is None else frozenset(options.stop_token_ids)
        self.limit = _limit(shape, options, len(prompt_ids), self.stop_token_ids)
        processors = make_logits_processors(
            options,
            prompt_tokens=len(prompt_ids),
            vocab_size=shape.vocab_size,
            stop_token_ids=self.stop_token_ids,
        )
        self._constraint: Constraint | None = None
        if options.json_schema is not None or options.regex is not None:
            self._constraint = Constraint(
                vocabulary(), options, prompt_tokens=len(prompt_ids), stop_token_ids=self.stop_token_ids
            )
            processors.append(self._constraint.process)
        self.new_ids: list[int] = []
        self._scored = ScoredSampler(
            make_sampler(options), [*processors, *logits_processors], top_logprobs=options.top_logprobs
        )
        self._detokenizer = Detokenizer(tokenizer, _context(tokenizer, prompt_ids, self._constraint))

    def process(self, token_ids: Sequence[int], logits: np.ndarray) -> np.ndarray:
        """All logits processors in their order, as one."""
        return self._scored.process(token_ids, logits)

    def sample(self, logits: np.ndarray) -> int:
        """The sampler."""
        return self._scored.sample(logits)

    @property
    def is_cut(self) -> bool:
        """Whether a stop string ended the text, so that it is shorter than that of the new ids."""
        return self._stop_strings.found

    def push(self, token_id: int) -> Chunk:
        """The chunk of a token that was drawn; its finish reason says whether it is the last."""
        logprob, top_logprobs = self._scored.pop()
        if token_id in self.stop_token_ids:
            return self.end("stop")
        self.new_ids.append(token_id)
        text = self._stop_strings.push(self._detokenizer.push(token_id))
        finished = self._finished()
        if finished is not None and not self.is_cut:
            text += self._rest()
        if self.is_cut:
            finished = "stop"
        return Chunk(text, token_id, finished, logprob, top_logprobs)

    def end(self, reason: FinishReason) -> Chunk:
        """The last chunk of a text that ends without another token: what was held back."""
        rest = self._rest()
        return Chunk(rest, None, "stop" if self.is_cut else reason)

    def _finished(self) -> FinishReason | None:
        if self._constraint is not None:
            self._constraint.follow(self.new_ids)
            if self._constraint.is_finished:
                return "stop"
        return "length" if len(self.new_ids) == self.limit else None

    def _rest(self) -> str:
        """The text held back so far, up to a stop string that it may complete."""
        rest = self._stop_strings.push(self._detokenizer.flush())
        return rest if self._stop_strings.found else rest + self._stop_strings.flush()


def _context(tokenizer: Tokenizer, prompt_ids: Sequence[int], constraint: Constraint | None) -> list[int]:
    """The ids whose text the new one follows.

    A SentencePiece decoder drops a space that begins a text. A grammar has counted it, so a constrained text never
    begins one.
    """
    if constraint is not None and not tokenizer.decode(prompt_ids):
        return [*prompt_ids, *tokenizer.encode(".", add_special_tokens=False)]
    return list(prompt_ids)


def _limit(shape: ModelShape, options: SamplingOptions, prompt_tokens: int, stop_token_ids: frozenset[int]) -> int:
    """How many tokens may come. Raises OptionError where the options do not fit the model or each other."""
    if not all(0 <= token_id < shape.vocab_size for token_id in stop_token_ids):
        raise OptionError(f"stop_token_ids must lie in 0..{shape.vocab_size - 1}")
    limit = new_token_limit(shape, prompt_tokens, options.max_new_tokens)
    if options.min_new_tokens > limit:
        raise OptionError(f"min_new_tokens {options.min_new_tokens} is more than the {limit} that may come")
    return limit
