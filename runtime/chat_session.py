"""A conversation that keeps what it has computed: a new question costs its own tokens and no more.

The keys and values of all messages so far stay in a cache. The next prompt is the template's text of the longer
conversation; its ids begin with the ids that the cache holds, as the model itself wrote them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Literal, get_args

from runtime.engine.sequence import DEFAULT_MAX_NEW_TOKENS
from runtime.errors import OptionError, PromptError
from runtime.generation.text_delta import TextDelta
from runtime.generation.text_stream import IsCancelled, TextStream
from runtime.generation_config import FILE as GENERATION_CONFIG
from runtime.language_model import LanguageModel
from runtime.sampling.logits_processors import LogitsProcessor
from runtime.sampling.options import DefaultLength, SamplingOptions
from runtime.text.chat_template import Message

ContextPolicy = Literal["error", "drop_oldest"]
CONTEXT_POLICIES: tuple[ContextPolicy, ...] = get_args(ContextPolicy)


class ChatSession:
    """A conversation with a chat model.

    When the conversation no longer fits the model's context, the policy decides. `error` refuses the question, which is
    then not part of the conversation. `drop_oldest` forgets the oldest questions with their answers, never the system
    message, until half of the context is free or the new question is all that is left: the rest has to be prefilled
    again after that, so it is done rarely.

    Attributes:
        messages: the conversation so far. A question is part of it once its answer is asked for, with as much of the
            answer as was read.
        prefilled_tokens: of the last question's prompt, those that had to be computed.
        prompt_tokens: all of them.
        dropped_messages: how many the last question made it forget.

    Args:
        model: with a chat template.
        system: a message before the first question.
        context_policy: what to do when the context is full.

    Raises:
        ChatTemplateError: the model has no chat template.
        OptionError: no such policy.
    """

    def __init__(
        self, model: LanguageModel, *, system: str | None = None, context_policy: ContextPolicy = "error"
    ) -> None:
        if context_policy not in CONTEXT_POLICIES:
            raise OptionError(f"context_policy must be one of {', '.join(CONTEXT_POLICIES)}, not {context_policy!r}")
        self._model = model
        self._template = model.chat_template
        self._policy = context_policy
        self._context = model.session.shape.max_position_embeddings
        self._cache = model.session.new_cache()
        self._answering: Iterator[TextDelta] = iter(())
        self.reset(system)

    def __repr__(self) -> str:
        """The model, and how far the conversation has come."""
        return f"ChatSession({self._model!r}, {len(self.messages)} messages)"

    def reset(self, system: str | None = None) -> None:
        """Forget the conversation and begin anew; what the cache holds is still reused where it fits."""
        self._end_answer()
        self.messages: list[Message] = [{"role": "system", "content": system}] if system else []
        self.prompt_tokens = self.prefilled_tokens = self.dropped_messages = 0
        self._written: tuple[str, list[int]] = ("", [])  # text and ids of the conversation, as the model has seen it

    def resume(self, messages: list[Message]) -> None:
        """Go on with an earlier conversation; an answer that is under way ends."""
        self.reset()
        self.messages = [dict(message) for message in messages]

    @property
    def context_tokens(self) -> int:
        """How many tokens the model sees at once."""
        return self._context

    def ask(
        self,
        question: str,
        sampling: SamplingOptions | None = None,
        *,
        logits_processors: Sequence[LogitsProcessor] = (),
        is_cancelled: IsCancelled | None = None,
    ) -> Iterator[TextDelta]:
        """Stream the answer; an answer that is still under way ends. The arguments are those of `LanguageModel.chat`.

        Without `max_new_tokens` an answer may be as long as the context has room for.

        Raises:
            PromptError: the question does not fit the context, under the policy; the conversation is as it was before.
            OptionError, ConstraintError: the options cannot be met.
            ChatTemplateError: the template refuses the messages.
        """
        self._end_answer()
        if sampling is None:
            sampling = self._model.default_sampling
        messages = [*self.messages, {"role": "user", "content": question}]
        text, prompt_ids = self._prompt(messages)
        kept = messages
        if self._policy == "drop_oldest" and not self._fits(prompt_ids, sampling):
            kept, text, prompt_ids = self._without_the_oldest(messages, sampling)
        if len(prompt_ids) + (_asked_tokens(sampling) or 1) > self._capacity(sampling):
            raise self._too_long(kept, len(prompt_ids), sampling)
        self._answering = self._start(kept, "", text, prompt_ids, sampling, logits_processors, is_cancelled)
        self.dropped_messages = len(messages) - len(kept)
        return self._answering

    def ask_again(
        self,
        sampling: SamplingOptions | None = None,
        *,
        logits_processors: Sequence[LogitsProcessor] = (),
        is_cancelled: IsCancelled | None = None,
    ) -> Iterator[TextDelta]:
        """Stream another answer to the last question, in place of the one it has. Raises what `ask` raises.

        Raises:
            OptionError: there is no answer yet.
        """
        self._end_answer()
        before = self.messages
        question, _ = self._last_turn()
        self.messages = before[:-2]
        try:
            return self.ask(question, sampling, logits_processors=logits_processors, is_cancelled=is_cancelled)
        finally:
            self.messages = before  # until the new answer has begun

    def continue_answer(
        self,
        sampling: SamplingOptions | None = None,
        *,
        logits_processors: Sequence[LogitsProcessor] = (),
        is_cancelled: IsCancelled | None = None,
    ) -> Iterator[TextDelta]:
        """Stream more of the last answer, from where it was cut.

        Raises:
            OptionError: there is no answer yet, or the options cannot be met.
            PromptError: the context is full.
        """
        self._end_answer()
        _, answer = self._last_turn()
        messages = self.messages[:-1]
        written, written_ids = self._written
        text = self._template.render(messages) + answer
        # As the model wrote it, where that is known.
        ids = written_ids if written == text else self._model.tokenizer.encode_prompt(text, add_special_tokens=False)
        sampling = sampling or self._model.default_sampling
        if len(ids) + (_asked_tokens(sampling) or 1) > self._capacity(sampling):
            raise self._too_long(messages, len(ids), sampling)
        self.dropped_messages = 0
        self._answering = self._start(messages, answer, text, ids, sampling, logits_processors, is_cancelled)
        return self._answering

    def _last_turn(self) -> tuple[str, str]:
        """The last question and its answer."""
        if [message["role"] for message in self.messages[-2:]] != ["user", "assistant"]:
            raise OptionError("there is no answer yet: ask a question first")
        question, answer = (message["content"] for message in self.messages[-2:])
        return question, answer

    def _start(
        self,
        messages: list[Message],
        answer: str,
        text: str,
        prompt_ids: list[int],
        sampling: SamplingOptions,
        logits_processors: Sequence[LogitsProcessor],
        is_cancelled: IsCancelled | None,
    ) -> Iterator[TextDelta]:
        """The answer to messages, of which there is a beginning already; `text` and `prompt_ids` end with that."""
        if sampling.max_new_tokens is None:
            sampling = replace(sampling, max_new_tokens=self._context - len(prompt_ids))
        stream = self._model.start(
            prompt_ids,
            sampling,
            logits_processors=logits_processors,
            is_cancelled=is_cancelled,
            cache=self._cache,
        )
        cached_tokens = min(self._cache.common_prefix(prompt_ids), len(prompt_ids) - 1)
        self.prompt_tokens, self.prefilled_tokens = len(prompt_ids), len(prompt_ids) - cached_tokens
        return self._answer(stream, messages, answer, text, prompt_ids)

    def _answer(
        self, stream: TextStream, messages: list[Message], answer: str, prompt: str, prompt_ids: list[int]
    ) -> Iterator[TextDelta]:
        begun = len(answer)
        try:
            for delta in stream.deltas():
                answer += delta.text
                yield delta
        finally:
            self.messages = [*messages, {"role": "assistant", "content": answer}]
            # Cut off at a stop string, the text is not that of the ids.
            self._written = ("", []) if stream.is_cut else (prompt + answer[begun:], prompt_ids + stream.new_ids)

    def _end_answer(self) -> None:
        if isinstance(self._answering, Generator):
            self._answering.close()

    def _prompt(self, messages: list[Message]) -> tuple[str, list[int]]:
        """The template's text, and its ids: those that the model has seen or written, then those of what is new.

        Tokenized as a whole, an answer might get other ids than the model gave it, and would have to be computed again.
        """
        text = self._template.render(messages)
        tokenizer = self._model.tokenizer
        written, written_ids = self._written
        new = text[len(written) :]
        # Where a special token begins, no token reaches over from before.
        if written and text.startswith(written) and tokenizer.begins_with_added_token(new):
            return text, written_ids + tokenizer.encode_prompt(new, add_special_tokens=False)
        return text, tokenizer.encode_prompt(text, add_special_tokens=False)

    def _fits(self, prompt_ids: list[int], sampling: SamplingOptions) -> bool:
        """Whether there is room for the answer: as long as asked for, or a quarter of the context."""
        capacity = self._capacity(sampling)
        room = _asked_tokens(sampling) or min(DEFAULT_MAX_NEW_TOKENS, capacity // 4)
        return len(prompt_ids) + room <= capacity

    def _capacity(self, sampling: SamplingOptions) -> int:
        """How many tokens question and answer may have together: the context, or the model's own max_length."""
        length = sampling.max_new_tokens
        return length.capacity(self._context) if isinstance(length, DefaultLength) else self._context

    def _too_long(self, messages: list[Message], prompt_tokens: int, sampling: SamplingOptions) -> PromptError:
        asked, capacity = _asked_tokens(sampling), self._capacity(sampling)
        limit = "context" if capacity == self._context else f"max_length ({GENERATION_CONFIG})"
        answer = f" and the answer may take {asked}" if asked else ""
        has_answers = any(message["role"] == "assistant" for message in messages)
        remedy = "begin anew, or let the oldest messages go (drop_oldest)" if has_answers else "shorten the question"
        return PromptError(
            f"the conversation has {prompt_tokens} tokens{answer}; the model's {limit} is {capacity}: {remedy}"
        )

    def _without_the_oldest(
        self, messages: list[Message], sampling: SamplingOptions
    ) -> tuple[list[Message], str, list[int]]:
        """The messages that are left, their text and ids."""
        system = [message for message in messages[:1] if message["role"] == "system"]
        turns = messages[len(system) :]
        while True:
            text, prompt_ids = self._prompt([*system, *turns])
            is_half_free = len(prompt_ids) <= self._capacity(sampling) // 2 and self._fits(prompt_ids, sampling)
            if len(turns) == 1 or is_half_free:
                return [*system, *turns], text, prompt_ids
            turns = turns[2:]  # a question and its answer


def _asked_tokens(sampling: SamplingOptions) -> int | None:
    """The length that the caller asks for; the model's own is cut to what there is room for."""
    length = sampling.max_new_tokens
    return None if isinstance(length, DefaultLength) else length
