"""What clients send: OpenAI's fields, and llama-server's where they cost nothing. Unknown ones are refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

Text = Annotated[str, Field(min_length=1)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Tokens = Annotated[int, Field(ge=1, le=2**31 - 1)]
Penalty = Annotated[FiniteFloat, Field(ge=-2, le=2)]
MOST_CHOICES, MOST_STOPS, MOST_LOGPROBS = 128, 16, 20


class Strict(BaseModel):
    """Types as they are written: no number in quotes, no NaN, no field that nobody knows."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class StreamOptions(Strict):
    """What a stream brings beside the text."""

    include_usage: bool | None = Field(None, description="a last chunk, without choices, tells the tokens")
    include_obfuscation: bool | None = Field(None, description="accepted; nothing is obfuscated")


class SamplingFields(Strict):
    """What both endpoints take."""

    model: str | None = Field(None, description="the served model's name, as /v1/models tells it; may be left out")
    stream: bool | None = Field(None, description="server-sent events, a chunk as each token comes")
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = Field(None, description="texts for each prompt")
    max_tokens: Tokens | None = None
    temperature: Annotated[FiniteFloat, Field(ge=0, le=100)] | None = Field(None, description="0 is greedy")
    top_p: Annotated[FiniteFloat, Field(gt=0, le=1)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: (
        dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[FiniteFloat, Field(ge=-100, le=100)]] | None
    ) = None
    stop: Text | Annotated[list[Text], Field(max_length=MOST_STOPS)] | None = None
    seed: Seed | None = Field(None, description="the same seed gives the same text")
    # Beyond OpenAI's.
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(None, description="0 is off")
    min_p: Annotated[FiniteFloat, Field(ge=0, lt=1)] | None = Field(None, description="0 is off")
    typical_p: Annotated[FiniteFloat, Field(gt=0, le=1)] | None = Field(None, description="1 is off")
    repetition_penalty: Annotated[FiniteFloat, Field(ge=0.01, le=100)] | None = Field(None, description="1 is off")
    cache_prompt: bool | None = Field(None, description="false: the prompt is computed anew and not kept for others")
    ignore_eos: bool | None = Field(None, description="go on to max_tokens past the end-of-text token")
    # OpenAI's, accepted without an effect.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class CompletionBody(SamplingFields):
    """The body of /v1/completions."""

    prompt: (
        str | Annotated[list[str], Field(min_length=1)] | TokenIds | Annotated[list[TokenIds], Field(min_length=1)]
    ) = Field("", description="a text, token ids, or several of either; an empty text starts from the BOS token")
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = Field(
        None, description="the log-probability of every token, and of this many likeliest ones"
    )
    echo: bool | None = Field(None, description="the prompt in front of the text")
    best_of: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = Field(None, description="only as large as n")
    suffix: None = Field(None, description="not supported")


class TextPart(Strict):
    """A part of a message: text alone."""

    type: Literal["text"]
    text: str


class FunctionCall(Strict):
    """What an assistant called."""

    name: str
    arguments: str = Field(description="JSON")


class ToolCall(Strict):
    """A call in an assistant's message."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Strict):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    # In an assistant's message that a client sends back as it came.
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class FunctionSchema(Strict):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool, for the chat template."""

    type: Literal["function"]
    function: FunctionSchema


class JsonSchema(Strict):
    """A schema with OpenAI's name for it."""

    name: str
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextFormat(Strict):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Strict):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(Strict):
    """JSON that a schema admits."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class ChatBody(SamplingFields):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Tokens | None = Field(None, description="the newer name of max_tokens")
    logprobs: bool | None = Field(None, description="the log-probability of every token")
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = Field(None, description="with logprobs")
    response_format: Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")] | None = (
        None
    )
    tools: list[Tool] | None = Field(None, description="handed to the chat template; the answer is the model's text")
    tool_choice: Literal["auto", "none"] | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="the template's own switches")


class TokenizeBody(Strict):
    """The body of /tokenize."""

    content: str
    add_special: bool = Field(False, description="with the special tokens that the tokenizer puts around a text")


class DetokenizeBody(Strict):
    """The body of /detokenize."""

    tokens: list[TokenId]
