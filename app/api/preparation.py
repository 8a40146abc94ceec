"""From the body of a request to what the runtime is asked for. Runs beside the event loop."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from app.api.engine import Answer
from app.api.errors import ApiError
from app.api.schemas import ChatBody, ChatMessage, CompletionBody, JsonObjectFormat, JsonSchemaFormat, SamplingFields
from runtime.language_model import LanguageModel
from runtime.sampling.options import DefaultLength, SamplingOptions
from runtime.text.jinja_template import Message

COMPLETION_TOKENS = 16  # OpenAI's default of /v1/completions
SAMPLING = (
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
)
SEEDS = 2**64


@dataclass(frozen=True)
class Prompt:
    """A prompt as token ids, and as the text that `echo` repeats."""

    token_ids: list[int]
    text: str = ""


def completion_prompts(body: CompletionBody) -> list[str | list[int]]:
    """The prompts of a body, one or several."""
    prompt = body.prompt
    is_one = isinstance(prompt, str) or isinstance(prompt[0], int)  # a list of ids is one prompt
    return [prompt] if is_one else list(prompt)  # type: ignore[list-item,arg-type]


def prepare_completion(model: LanguageModel, body: CompletionBody, answer: Answer, most_tokens: int) -> list[Prompt]:
    """Set the requests of an answer's texts: n for each prompt, in the prompts' order.

    Args:
        model: tokenizes and generates.
        body: of the request.
        answer: with a text for each.
        most_tokens: new ones of a text, at most.

    Raises:
        ApiError, PromptError, OptionError: what was asked for cannot be done.
    """
    if body.best_of not in (None, body.n or 1):
        raise ApiError(400, "best_of: only as large as n; draw n texts and choose", param="best_of")
    if body.echo and body.logprobs is not None:
        raise ApiError(400, "logprobs of the prompt are not there: leave out echo, or logprobs", param="echo")
    prompts = [_completion_prompt(model, prompt) for prompt in completion_prompts(body)]
    n, sampling = body.n or 1, _sampling(model, body, body.logprobs)
    for text in answer.texts:
        prompt = prompts[text.index // n]
        limit = _limit(model, body.max_tokens, COMPLETION_TOKENS, len(prompt.token_ids), most_tokens)
        options = replace(sampling, max_new_tokens=limit, seed=_seed(body.seed, text.index % n))
        _set_request(model, body, answer, text.index, prompt.token_ids, options)
    return prompts


def prepare_chat(model: LanguageModel, body: ChatBody, answer: Answer, most_tokens: int) -> list[Prompt]:
    """Set the requests of an answer's texts: n answers to one conversation.

    Raises:
        ApiError, PromptError, OptionError, ChatTemplateError, ConstraintError: what was asked for cannot be done.
    """
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    if None not in (body.max_tokens, body.max_completion_tokens) and body.max_tokens != body.max_completion_tokens:
        raise ApiError(400, "max_tokens and max_completion_tokens differ: give one", param="max_tokens")
    tools = None
    if body.tools and body.tool_choice != "none":
        tools = [tool.model_dump(exclude_none=True) for tool in body.tools]
    names = body.chat_template_kwargs or {}
    taken = names.keys() & {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"}
    if taken:
        raise ApiError(400, f"chat_template_kwargs: {min(taken)} is set by other fields", param="chat_template_kwargs")
    text = model.chat_template.render([_message(message) for message in body.messages], tools=tools, **names)
    # The template has put the special tokens in.
    prompt_ids = model.tokenizer.encode_prompt(text, add_special_tokens=False)
    top = (body.top_logprobs or 0) if body.logprobs else None
    sampling = replace(_sampling(model, body, top), json_schema=_json_schema(body))
    limit = _limit(model, body.max_completion_tokens or body.max_tokens, None, len(prompt_ids), most_tokens)
    for served in answer.texts:
        options = replace(sampling, max_new_tokens=limit, seed=_seed(body.seed, served.index))
        _set_request(model, body, answer, served.index, prompt_ids, options)
    return [Prompt(prompt_ids)]


def _set_request(
    model: LanguageModel,
    body: SamplingFields,
    answer: Answer,
    index: int,
    prompt_ids: list[int],
    options: SamplingOptions,
) -> None:
    text = answer.texts[index]
    text.request = model.text_request(
        prompt_ids, options, reuse_prompt=body.cache_prompt is not False, on_delta=text.take
    )


def _completion_prompt(model: LanguageModel, prompt: str | list[int]) -> Prompt:
    if isinstance(prompt, str):
        return Prompt(model.tokenizer.encode_prompt(prompt), prompt)
    model.session.check_token_ids(prompt)
    return Prompt(prompt, model.tokenizer.decode(prompt))


def _sampling(model: LanguageModel, body: SamplingFields, top_logprobs: int | None) -> SamplingOptions:
    """The model's own defaults, and what the body replaces."""
    given: dict[str, Any] = {name: value for name in SAMPLING if (value := getattr(body, name)) is not None}
    if body.logit_bias is not None:
        given["logit_bias"] = {int(token_id): bias for token_id, bias in body.logit_bias.items()}
    if body.stop is not None:
        given["stop_strings"] = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    if body.ignore_eos:
        given["stop_token_ids"] = ()
    return replace(model.default_sampling, top_logprobs=top_logprobs, **given)


def _seed(seed: int | None, number: int) -> int | None:
    """A seed for each of n texts, so that they differ."""
    return None if seed is None else (seed + number) % SEEDS


def _limit(model: LanguageModel, asked: int | None, default: int | None, prompt_tokens: int, most_tokens: int) -> int:
    """New tokens at most: as asked for, or else the model's own default, `default`, or what there is room for."""
    context = model.session.shape.max_position_embeddings
    room = context - prompt_tokens
    if asked is None:
        own = model.default_sampling.max_new_tokens
        if default is None and isinstance(own, DefaultLength):
            default = own.new_tokens(prompt_tokens, context)
        # Without any room the runtime says what is wrong with the prompt, so it is asked for one token in any case.
        return max(1, min(room, most_tokens, default or room))
    if asked > room > 0:
        raise ApiError(
            400,
            f"the prompt has {prompt_tokens} tokens and max_tokens is {asked}: together more than the model's context "
            f"of {context}; ask for at most {room}",
            param="max_tokens",
            code="context_length_exceeded",
        )
    if asked > most_tokens:
        raise ApiError(400, f"max_tokens: this server gives {most_tokens} at most, not {asked}", param="max_tokens")
    return asked


def _json_schema(body: ChatBody) -> Any:
    wanted = body.response_format
    if isinstance(wanted, JsonObjectFormat):
        return {"type": "object"}
    if isinstance(wanted, JsonSchemaFormat):
        return wanted.json_schema.json_schema or True
    return None


def _message(message: ChatMessage) -> Message:
    """A message as templates know it."""
    record = message.model_dump(exclude_none=True, exclude={"refusal", "annotations", "audio", "function_call"})
    if message.role == "developer":
        record["role"] = "system"  # its older name, which every template knows
    if isinstance(message.content, list):
        record["content"] = "\n".join(part.text for part in message.content)
    record.setdefault("content", "")
    for call in record.get("tool_calls", ()):
        try:  # templates write the arguments as JSON themselves
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        except (ValueError, RecursionError):
            raise ApiError(400, "messages: the arguments of a tool call are not JSON", param="messages") from None
    return record
