"""What the page sends: pydantic models of its requests, and their limits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat

from app.api.schemas import Strict
from runtime.sampling.options import SamplingOptions

# Of each sampling option that has a control: label, least, most, step. The meaning is the runtime's, the default the
# model's own or else the runtime's.
CONTROLS: dict[str, tuple[str, float, float, float]] = {
    "temperature": ("Temperature", 0, 2, 0.05),
    "max_new_tokens": ("Length", 1, 4096, 1),
    "top_p": ("Top-p", 0.05, 1, 0.01),
    "top_k": ("Top-k", 0, 200, 1),
    "min_p": ("Min-p", 0, 0.5, 0.01),
    "typical_p": ("Typical-p", 0.05, 1, 0.01),
    "repetition_penalty": ("Repetition penalty", 1, 2, 0.05),
    "frequency_penalty": ("Frequency penalty", 0, 2, 0.05),
    "presence_penalty": ("Presence penalty", 0, 2, 0.05),
    "no_repeat_ngram_size": ("No repeated n-gram", 0, 10, 1),
}
MOST_STOPS = 16
MOST_MESSAGES = 1000


@dataclass(frozen=True)
class PageLimits:
    """What one visitor may ask for.

    Attributes:
        prompt_tokens: of a prompt, at most; None for the context.
        new_tokens: of a text, at most; None for the context.
        texts: that wait or run at once for one address.
    """

    prompt_tokens: int | None = None
    new_tokens: int | None = None
    texts: int = 4


class Sampling(Strict):
    """How tokens are drawn; what is absent is the model's own."""

    temperature: FiniteFloat | None = None
    top_k: int | None = None
    top_p: FiniteFloat | None = None
    min_p: FiniteFloat | None = None
    typical_p: FiniteFloat | None = None
    repetition_penalty: FiniteFloat | None = None
    frequency_penalty: FiniteFloat | None = None
    presence_penalty: FiniteFloat | None = None
    no_repeat_ngram_size: int | None = None
    max_new_tokens: int | None = None
    seed: Annotated[int, Field(ge=0, le=2**53)] | None = None
    stop_strings: Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=MOST_STOPS)] = (
        Field(default_factory=list)
    )
    json_schema: Annotated[str, Field(max_length=20_000)] | None = None
    regex: Annotated[str, Field(max_length=2_000)] | None = None

    def given(self) -> dict[str, Any]:
        """The options that are set, for `dataclasses.replace` of the model's own."""
        return {name: value for name, value in self if value not in (None, [], "")}


class Wish(Strict):
    """What every request for a text has.

    Attributes:
        precision: None for the server's default.
        sampling: how tokens are drawn.
        certainty: send tokens with their probabilities and their rivals, in place of mere text.
    """

    precision: str | None = None
    sampling: Sampling = Field(default_factory=Sampling)
    certainty: bool = False


class ContinueWish(Wish):
    """A text to continue. An empty one starts from the BOS token."""

    text: str = ""


class PageMessage(Strict):
    """A message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatWish(Wish):
    """A conversation to answer. Where its last message is the assistant's, that is continued."""

    messages: Annotated[list[PageMessage], Field(min_length=1, max_length=MOST_MESSAGES)]


class PromptWish(Wish):
    """A prompt by itself, without a conversation around it.

    Attributes:
        text: what to continue; an empty one starts from the BOS token.
        as_question: put it through the chat template, as a user's first message.
        system: the message before it, which the chat template alone knows.
    """

    text: str = ""
    as_question: bool = False
    system: str = ""


class TokenizeWish(Strict):
    """A text to be shown in tokens; `as_question`, as the chat template writes it."""

    text: Annotated[str, Field(max_length=20_000)]
    as_question: bool = False


class MeasureWish(Strict):
    """A precision to be measured; None for the server's default."""

    precision: str | None = None


def controls(defaults: SamplingOptions, context: int, limits: PageLimits) -> list[dict[str, Any]]:
    """The controls of the drawer, as JSON: name, label, meaning, range and default, within the range."""
    meanings = {option.name: option.metadata["meaning"] for option in fields(SamplingOptions)}
    rows = []
    for name, (label, least, most, step) in CONTROLS.items():
        end = most if name != "max_new_tokens" else max(1, min(most, context - 1, limits.new_tokens or context))
        own = getattr(defaults, name)
        value = None if own is None else min(max(own, least), end)
        rows.append(
            {
                "name": name,
                "label": label,
                "meaning": meanings[name],
                "least": least,
                "most": end,
                "step": step,
                "value": value,
            }
        )
    return rows
