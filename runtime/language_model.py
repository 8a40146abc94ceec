"""LanguageModel: text in, text out. What users import."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from runtime.bundle import Bundle
from runtime.chat_template import ChatTemplate, Message
from runtime.detokenizer import Detokenizer
from runtime.generate import generate_step, new_token_limit
from runtime.logits_processors import repetition_penalty
from runtime.sampling import make_sampler
from runtime.sampling_options import SamplingOptions
from runtime.session import DecoderSession
from runtime.stopping import StopStrings
from runtime.tokenizer import Tokenizer

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Chunk:
    """A piece of a stream. The last one has a finish reason, and may have no token.

    Attributes:
        text: new text; empty while a character or a possible stop string is unfinished.
        token_id: the token that was drawn; None in a last chunk that only flushes text.
        finish_reason: "stop" (a stop token or string) or "length" (max_new_tokens) on the last chunk.
    """

    text: str
    token_id: int | None = None
    finish_reason: FinishReason | None = None


@dataclass
class Generation:
    """A finished generation and what it cost.

    Attributes:
        text: the new text, without the prompt.
        token_ids: the new tokens, without the one that stopped it.
        finish_reason: "stop" or "length".
        prompt_tokens: how many the prompt had.
        time_to_first_token_seconds: from the call to the first token: the prefill.
        decode_seconds: from the first token to the last.
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason = "length"
    prompt_tokens: int = 0
    time_to_first_token_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def new_tokens(self) -> int:
        """How many tokens were generated."""
        return len(self.token_ids)

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens over the time to the first token."""
        return _rate(self.prompt_tokens, self.time_to_first_token_seconds)

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens after the first over the time that they took; 0 with fewer than two."""
        return _rate(self.new_tokens - 1, self.decode_seconds)


class LanguageModel:
    """A model in one precision, its tokenizer and its chat template.

    >>> model = LanguageModel.load("bundles/demo")                                       # doctest: +SKIP
    >>> print(model.generate("Once upon a time", max_new_tokens=40).text)                # doctest: +SKIP
    """

    def __init__(self, bundle: Bundle, session: DecoderSession, tokenizer: Tokenizer) -> None:
        self.bundle = bundle
        self.session = session
        self.tokenizer = tokenizer

    @classmethod
    def load(
        cls,
        path_or_hub_id: str | Path,
        *,
        precision: str | None = None,
        threads: int | None = None,
        revision: str | None = None,
    ) -> LanguageModel:
        """Open a bundle.

        Args:
            path_or_hub_id: a local folder or a Hub id.
            precision: "int8", "q8", "fp32", ...; None for the best that is there (int8 first).
            threads: of a matrix product; None for the physical cores that we may use.
            revision: branch, tag or commit of a Hub id.

        Raises:
            BundleError: it is no sound bundle.
            OptionError: it lacks the precision, or threads < 1.
        """
        bundle = Bundle.open(path_or_hub_id, revision=revision)
        tokenizer = Tokenizer(bundle)
        return cls(bundle, DecoderSession(bundle, precision or bundle.default_precision, threads=threads), tokenizer)

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        sampling: SamplingOptions | None = None,
        max_new_tokens: int | None = None,
        stop_strings: Sequence[str] = (),
        stop_token_ids: Sequence[int] | None = None,
    ) -> Iterator[Chunk]:
        """Continue a prompt, piece by piece. Closing the iterator stops the computation.

        Args:
            prompt: text, or token ids. An empty text starts from the BOS token.
            sampling: how tokens are drawn; None for the defaults of SamplingOptions.
            max_new_tokens: None for 256 or what the context has room for.
            stop_strings: end at any of these; it is not part of the text.
            stop_token_ids: end at any of these; None for the bundle's end-of-text ids.

        Raises:
            PromptError, OptionError: at the call, before anything is computed.
        """
        prompt_ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        sampling = sampling or SamplingOptions()
        penalties = [repetition_penalty(sampling.repetition_penalty)] if sampling.repetition_penalty != 1 else []
        limit = new_token_limit(self.session, len(prompt_ids), max_new_tokens)
        steps = generate_step(
            self.session,
            prompt_ids,
            max_new_tokens=limit,
            sampler=make_sampler(sampling),
            logits_processors=penalties,
        )
        stop_ids = self.bundle.eos_token_ids if stop_token_ids is None else frozenset(stop_token_ids)
        return self._chunks(steps, prompt_ids, limit, StopStrings(stop_strings), stop_ids)

    def _chunks(
        self,
        steps: Iterator[int],
        prompt_ids: list[int],
        limit: int,
        stop_strings: StopStrings,
        stop_ids: frozenset[int],
    ) -> Iterator[Chunk]:
        detokenizer = Detokenizer(self.tokenizer, prompt_ids)
        for produced, token_id in enumerate(steps, start=1):
            if token_id in stop_ids:
                break
            text = stop_strings.push(detokenizer.push(token_id))
            if stop_strings.found:
                yield Chunk(text, token_id, "stop")
                return
            if produced == limit:
                rest = stop_strings.push(detokenizer.flush())
                tail = rest if stop_strings.found else rest + stop_strings.flush()
                yield Chunk(text + tail, token_id, "stop" if stop_strings.found else "length")
                return
            yield Chunk(text, token_id)
        rest = stop_strings.push(detokenizer.flush())
        yield Chunk(rest if stop_strings.found else rest + stop_strings.flush(), None, "stop")

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        sampling: SamplingOptions | None = None,
        max_new_tokens: int | None = None,
        stop_strings: Sequence[str] = (),
        stop_token_ids: Sequence[int] | None = None,
    ) -> Generation:
        """`stream`, collected and timed. Takes and raises the same."""
        prompt_ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        stream = self.stream(
            prompt_ids,
            sampling=sampling,
            max_new_tokens=max_new_tokens,
            stop_strings=stop_strings,
            stop_token_ids=stop_token_ids,
        )
        return collect(stream, prompt_tokens=len(prompt_ids))

    def check_chat(self) -> None:
        """Raise ChatTemplateError where the bundle has no chat template."""
        ChatTemplate(self.bundle)

    def chat(
        self,
        messages: Sequence[Message],
        *,
        sampling: SamplingOptions | None = None,
        max_new_tokens: int | None = None,
        stop_strings: Sequence[str] = (),
    ) -> Iterator[Chunk]:
        """Stream the assistant's answer to messages such as `[{"role": "user", "content": "Hi"}]`.

        Raises:
            ChatTemplateError: the bundle has no chat template, or it refuses the messages.
        """
        prompt = ChatTemplate(self.bundle).render(messages)
        # The template has put the special tokens in; a second BOS would be one that the model never saw.
        prompt_ids = self.tokenizer.encode(prompt, add_special_tokens=False)
        return self.stream(prompt_ids, sampling=sampling, max_new_tokens=max_new_tokens, stop_strings=stop_strings)


def collect(chunks: Iterator[Chunk], *, prompt_tokens: int) -> Generation:
    """Run a stream to its end and time it."""
    result = Generation(prompt_tokens=prompt_tokens)
    started = time.perf_counter()
    first = last = None
    for chunk in chunks:
        result.text += chunk.text
        if chunk.token_id is not None:
            last = time.perf_counter()
            first = first or last
            result.token_ids.append(chunk.token_id)
        if chunk.finish_reason is not None:
            result.finish_reason = chunk.finish_reason
    if first is not None and last is not None:
        result.time_to_first_token_seconds = first - started
        result.decode_seconds = last - first
    return result


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds > 0 and tokens > 0 else 0.0
