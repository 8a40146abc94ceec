"""How text is generated: the options, with their defaults, ranges and meanings.

This is their only definition; the command line and the app read it. The module does not import NumPy, so that `--help`
is fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from runtime.errors import ContextLengthError, OptionError

INFINITY = float("inf")


class DefaultLength(int):
    """A `max_new_tokens` or `min_new_tokens` that the model brings, and not the caller.

    An explicit number that cannot be met is an error; this one is cut to what there is room for.

    Attributes:
        counts_prompt: the number is transformers' `max_length`: of prompt and output together.
    """

    counts_prompt: bool

    def __new__(cls, tokens: int, *, counts_prompt: bool = False) -> Self:
        """A length in tokens."""
        length = super().__new__(cls, tokens)
        length.counts_prompt = counts_prompt
        return length

    def capacity(self, context: int) -> int:
        """How many tokens prompt and output may have together, in a context of this length."""
        return min(self, context) if self.counts_prompt else context

    def new_tokens(self, prompt_tokens: int, context: int) -> int:
        """How many tokens may come after a prompt. Raises ContextLengthError where it leaves no room."""
        room = self.capacity(context) - prompt_tokens
        if room < 1:
            raise ContextLengthError(
                f"the prompt has {prompt_tokens} tokens and may have {self.capacity(context) - 1} at most, by "
                f"max_length {self} of the model's generation_config.json: shorten it, or give max_new_tokens"
            )
        return room if self.counts_prompt else min(self, room)


def _option(
    default: Any,
    meaning: str,
    allowed: str = "",
    holds: Callable[[Any], bool] | None = None,
    *,
    kind: type | None = None,
    unset: str = "",
) -> Any:
    """A field with its default, and with the metadata that the command line and the app read.

    Args:
        default: a value, or a function that makes one.
        meaning: a phrase for a help text, without the default.
        allowed: the range in words.
        holds: the range as a test; NaN must fail it.
        kind: float or int for an option that is a number, and which the command line takes as such.
        unset: what a default of None comes to, in words.
    """
    metadata = {"meaning": meaning, "allowed": allowed, "holds": holds, "kind": kind, "unset": unset}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are drawn and when a text ends. Names, meanings and order are transformers', where it has the option.

    The order: logit_bias, repetition_penalty, frequency_penalty, presence_penalty, no_repeat_ngram_size,
    min_new_tokens, json_schema or regex, the caller's processors, temperature, top_k, top_p, min_p, typical_p, draw.

    Raises:
        OptionError: a value outside its range, or both a schema and a regular expression.
    """

    temperature: float = _option(
        0.7, "0 is greedy, above 1 is wilder", "0 (greedy) or above", lambda x: 0 <= x < INFINITY, kind=float
    )
    top_k: int = _option(
        0, "draw among the k likeliest tokens; 0 is off", "0 (off) or above", lambda x: x >= 0, kind=int
    )
    top_p: float = _option(
        0.95,
        "draw among the likeliest tokens that hold this much probability; 1 is off",
        "above 0 and at most 1 (off)",
        lambda x: 0 < x <= 1,
        kind=float,
    )
    min_p: float = _option(
        0.0,
        "drop tokens less likely than this share of the likeliest; 0 is off",
        "at least 0 (off) and below 1",
        lambda x: 0 <= x < 1,
        kind=float,
    )
    typical_p: float = _option(
        1.0,
        "draw among the tokens of the most typical surprise that hold this much probability; 1 is off",
        "above 0 and at most 1 (off)",
        lambda x: 0 < x <= 1,
        kind=float,
    )
    repetition_penalty: float = _option(
        1.0,
        "above 1 discourages tokens of the prompt and the output; 1 is off",
        "above 0",
        lambda x: 0 < x < INFINITY,
        kind=float,
    )
    frequency_penalty: float = _option(
        0.0,
        "lowers the logit of a token by this for each time that it was generated; 0 is off",
        "a finite number",
        lambda x: -INFINITY < x < INFINITY,
        kind=float,
    )
    presence_penalty: float = _option(
        0.0,
        "lowers the logit of a token by this once it was generated; 0 is off",
        "a finite number",
        lambda x: -INFINITY < x < INFINITY,
        kind=float,
    )
    no_repeat_ngram_size: int = _option(
        0, "no run of this many tokens occurs twice; 0 is off", "0 (off) or above", lambda x: x >= 0, kind=int
    )
    logit_bias: Mapping[int, float] = _option(
        dict,
        "added to the logit of a token; -inf forbids it",
        "token ids with numbers below infinity",
        lambda biases: all(bias < INFINITY for bias in biases.values()),
    )
    max_new_tokens: int | None = _option(
        None,
        "end after this many tokens",
        "at least 1",
        lambda x: x is None or x >= 1,
        kind=int,
        unset="256 or what the context has room for",
    )
    min_new_tokens: int = _option(
        0, "no stop token is drawn before this many tokens", "0 (off) or above", lambda x: x >= 0, kind=int
    )
    stop_strings: Sequence[str] = _option((), "end before this text, which is not part of the output")
    stop_token_ids: Sequence[int] | None = _option(
        None, "end at this token, which is not part of the output", unset="the bundle's end-of-text tokens"
    )
    json_schema: str | Mapping[str, Any] | bool | None = _option(None, "the output is JSON that this schema admits")
    regex: str | None = _option(None, "the output is matched by this regular expression, as a whole")
    top_logprobs: int | None = _option(
        None,
        "tell the log-probability of every token, and of the N likeliest in its place (0: of the token alone)",
        "at least 0",
        lambda x: x is None or x >= 0,
        kind=int,
    )
    seed: int | None = _option(
        None, "the same seed gives the same text", "0 or above", lambda x: x is None or x >= 0, kind=int
    )

    def __post_init__(self) -> None:
        for option in fields(self):
            holds, value = option.metadata["holds"], getattr(self, option.name)
            if holds is not None and not holds(value):
                raise OptionError(f"{option.name} must be {option.metadata['allowed']}, not {value}")
        for name in ("stop_strings", "stop_token_ids"):
            value = getattr(self, name)
            if value is not None:
                if isinstance(value, str):
                    raise OptionError(f"{name} must be a sequence of strings, not one string: give [{value!r}]")
                object.__setattr__(self, name, tuple(value))
        if self.json_schema is not None and self.regex is not None:
            raise OptionError("json_schema and regex exclude each other; give one")


def meaning(name: str) -> str:
    """The meaning of an option, for a help text."""
    return str(next(option for option in fields(SamplingOptions) if option.name == name).metadata["meaning"])
