"""Constrained output: a JSON schema or a regular expression decides which tokens may come next.

llguidance (an optional extra) compiles the grammar and tells in microseconds which tokens of the vocabulary keep the
text within it. This module makes a logits processor of that.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from runtime.errors import ConstraintError, MissingDependencyError
from runtime.sampling.json_numbers import DigitRun, digit_run, forbid_digits, leading_digits
from runtime.sampling.json_schema import parse_schema, supported_schema
from runtime.sampling.options import SamplingOptions

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

SILENT = 0
# The layout of json.dumps. Where white space is free, a small model may write white space until it is cut off.
LAYOUT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
END = "<|end of the constrained text|>"


class ExtensibleTokenizer(Protocol):
    """What a grammar needs of a tokenizer; `runtime.text.tokenizer.Tokenizer` is one."""

    def with_another_token(self, token: str) -> tuple[str, int]:
        """The content of its `tokenizer.json` with one more special token, and that token's id."""


class GrammarVocabulary:
    """A model's tokens in llguidance's form, made once per model (0.3 s for 49,152 tokens) and shared by its grammars.

    Args:
        tokenizer: of the bundle.
        vocab_size: the number of logits.

    Raises:
        MissingDependencyError: llguidance is not installed.
    """

    def __init__(self, tokenizer: ExtensibleTokenizer, vocab_size: int) -> None:
        try:
            from llguidance import LLTokenizer
        except ImportError:
            raise MissingDependencyError("json_schema and regex need llguidance: pip install llguidance") from None
        self.vocab_size = vocab_size
        # A token of its own, which is never drawn, ends a text: stop tokens may differ from call to call.
        tokenizer_json, self.end_token_id = tokenizer.with_another_token(END)
        self.size = max(vocab_size, self.end_token_id + 1)
        self.tokens: LLTokenizer = LLTokenizer(tokenizer_json, n_vocab=self.size, eos_token=[self.end_token_id])

    def token_bytes(self, token_id: int) -> bytes:
        """A token's own bytes; none for a special token."""
        return b"" if self.tokens.is_special_token(token_id) else self.tokens.decode_bytes([token_id])

    @cached_property
    def leading_digits(self) -> np.ndarray:
        """How many digits each token begins with, int64 [vocab_size]."""
        return leading_digits(self.vocab_size, self.token_bytes)


class Constraint:
    """A grammar, and the position that a text has reached in it.

    Args:
        vocabulary: of the model.
        options: with json_schema or regex.
        prompt_tokens: the number of ids, at the beginning of those that `process` is given, that are the prompt; the
            grammar does not cover them.
        stop_token_ids: may be drawn where the text is complete, and nowhere else.

    Raises:
        ConstraintError: the grammar is not valid or not supported, or no text satisfies it.
    """

    def __init__(
        self,
        vocabulary: GrammarVocabulary,
        options: SamplingOptions,
        *,
        prompt_tokens: int,
        stop_token_ids: Collection[int],
    ) -> None:
        from llguidance import LLMatcher

        self._vocabulary = vocabulary
        self._prompt_tokens = prompt_tokens
        self._stop_ids = np.fromiter(stop_token_ids, np.int64, len(stop_token_ids))
        self._what = "json_schema" if options.json_schema is not None else "regex"
        self._matcher: LLMatcher = LLMatcher(vocabulary.tokens, _grammar(options), log_level=SILENT)
        self._check()
        self._taken: list[int] = []
        self._digits = DigitRun() if options.json_schema is not None else None
        self._bits = np.zeros(-(-vocabulary.size // 32), np.int32)
        allowed, is_complete = self._allowed()
        if self._matcher.is_error() or not (is_complete or allowed.any()):
            raise ConstraintError(f"no text satisfies the {self._what}")

    def process(self, token_ids: Sequence[int], logits: np.ndarray) -> np.ndarray:
        """Forbid every token that would leave the grammar: a logits processor.

        Raises:
            ConstraintError: the grammar turns out to be too complex.
        """
        self.follow(token_ids[self._prompt_tokens :])
        allowed, is_complete = self._allowed()
        self._check()
        allowed[self._stop_ids] = is_complete
        if self._digits is not None:
            allowed = forbid_digits(allowed, self._vocabulary.leading_digits, self._digits.room)
        processed: np.ndarray = np.where(allowed, logits, np.float32(-np.inf))
        return processed

    def follow(self, token_ids: Sequence[int]) -> None:
        """Move to the end of these new tokens: on from those of the last call, or back to where the two part."""
        shared = len(self._taken)
        if list(token_ids[:shared]) != self._taken:
            shared = next(place for place, taken in enumerate(self._taken) if taken != [*token_ids, -1][place])
            self._matcher.rollback(len(self._taken) - shared)
            if self._digits is not None:
                self._digits = digit_run([self._vocabulary.token_bytes(token_id) for token_id in token_ids[:shared]])
        self._matcher.consume_tokens(list(token_ids[shared:]))
        if self._digits is not None:
            for token_id in token_ids[shared:]:
                self._digits.feed(self._vocabulary.token_bytes(token_id))
        self._taken = list(token_ids)
        self._check()

    @property
    def is_finished(self) -> bool:
        """Whether the text is complete and nothing can be added."""
        return bool(self._matcher.is_stopped())

    @property
    def is_complete(self) -> bool:
        """Whether the text may end here."""
        return bool(self._matcher.is_accepting())

    def _allowed(self) -> tuple[np.ndarray, bool]:
        """bool [vocab_size]: the tokens that may come next; and whether the text may end here."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little").view(bool)
        is_complete, bits[self._vocabulary.end_token_id] = bool(bits[self._vocabulary.end_token_id]), False
        return bits[: self._vocabulary.vocab_size], is_complete

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ConstraintError(f"{self._what}: {_reason(self._matcher.get_error())}")


def _grammar(options: SamplingOptions) -> str:
    from llguidance import LLMatcher

    if options.regex is not None:
        return str(LLMatcher.grammar_from_regex(options.regex))
    try:
        schema = parse_schema(options.json_schema)
        schema = supported_schema(schema)
        text = json.dumps({"allOf": [schema]} if isinstance(schema, bool) else schema)
        return str(LLMatcher.grammar_from_json_schema(text, defaults=LAYOUT))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConstraintError(f"json_schema: {error}") from None


def _reason(message: str) -> str:
    """llguidance's message about the grammar, without the state of its parser."""
    return " ".join(message.split("<state>", maxsplit=1)[0].split())
