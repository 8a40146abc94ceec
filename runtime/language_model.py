"""LanguageModel: text in, text out. What users import."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from runtime.bundle import Bundle
from runtime.engine.fair_lock import FairLock
from runtime.engine.kv_cache import KVCache
from runtime.engine.prompt_cache import PromptCache
from runtime.engine.session import DecoderSession
from runtime.errors import OptionError, PromptError
from runtime.generation.chunk import Chunk, Generation, collect
from runtime.generation.continuation import Continuation
from runtime.generation.generate import generate_step
from runtime.generation.speculation import check_prompt_lookup
from runtime.generation.text_stream import IsCancelled, TextStream
from runtime.sampling.constraint import GrammarVocabulary
from runtime.sampling.logits_processors import LogitsProcessor
from runtime.sampling.logprobs import TextScore, text_logprobs
from runtime.sampling.options import SamplingOptions
from runtime.text.chat_template import ChatTemplate, Message
from runtime.text.tokenizer import Tokenizer

SCORED_AT_ONCE = 128  # tokens: their logits take 25 MB at a vocabulary of 49,152


class LanguageModel:
    """A model in one precision, its tokenizer and its chat template. Threads may share one.

    >>> model = LanguageModel.load("bundles/demo")                                       # doctest: +SKIP
    >>> print(model.generate("Once upon a time").text)                                   # doctest: +SKIP
    """

    def __init__(
        self,
        bundle: Bundle,
        session: DecoderSession,
        tokenizer: Tokenizer,
        *,
        prefill_session: DecoderSession | None = None,
        prompt_lookup: bool = False,
        cached_prompts: int = 1,
    ) -> None:
        self.bundle = bundle
        self.session = session
        self.tokenizer = tokenizer
        self._prefill_session = prefill_session
        self._prompt_lookup = prompt_lookup
        # A text must not depend on what was computed before it. In an exact session every row is the one that its own
        # prefill would give; elsewhere whole chunks of prompts are, since the passes after them are the same ones.
        self._reuses_all = session.is_exact and prefill_session is None
        self._chunk_tokens = (prefill_session or session).chunk_tokens
        self._prompts = PromptCache(session, cached_prompts, 1 if self._reuses_all else self._chunk_tokens)
        self._lock = FairLock()  # a session computes one step at a time

    @classmethod
    def load(
        cls,
        path_or_hub_id: str | Path,
        *,
        precision: str | None = None,
        prefill_precision: str | None = None,
        threads: int | None = None,
        prompt_lookup: bool = False,
        steady: bool = False,
        cached_prompts: int = 1,
        revision: str | None = None,
    ) -> LanguageModel:
        """Open a bundle.

        Args:
            path_or_hub_id: a local folder or a Hub id.
            precision: "int8", "q8", "fp32", ...; None for the best that is there (int8 first).
            prefill_precision: another one that runs prompts, over the same cache; "q8" ("q8-kv8" before "int8-kv8") is
                fastest at many tokens at once, at the price of a second set of weights in memory.
            threads: of a matrix product; None for the physical cores that we may use.
            prompt_lookup: check several tokens at once that are guessed from the text so far: faster where the output
                repeats the prompt, and the tokens are the same. In "int8-kv8", in fp32, or with `steady`.
            steady: give the same bits however tokens come together; steps cost a tenth more (see DecoderSession). One
                precision must run prompts and steps then.
            cached_prompts: keep the caches of so many last generations, so that what a prompt begins with like one of
                them is not computed again, and the text is the same: whole chunks of the prompt, or in an exact session
                ("int8-kv8", `steady`) that runs its own prompts all of it and of the answer.
            revision: branch, tag or commit of a Hub id.

        Raises:
            BundleError: it is no sound bundle.
            OptionError: it lacks the precision, threads < 1, cached_prompts < 0, the two precisions do not go together,
                q8 cannot be steady, or prompt lookup could change tokens.
        """
        bundle = Bundle.open(path_or_hub_id, revision=revision)
        tokenizer = Tokenizer(bundle)
        session = DecoderSession(bundle, precision or bundle.default_precision, threads=threads, steady=steady)
        if prompt_lookup:
            check_prompt_lookup(session)
        prefill_session = None
        if prefill_precision is not None and prefill_precision != session.precision:
            if session.steady:  # a steady step writes the row before it again, as its own precision has it
                raise OptionError(f"a steady {session.precision} runs its prompts itself, not in {prefill_precision}")
            prefill_session = DecoderSession(bundle, prefill_precision, threads=threads)
            prefill_session.check_cache(session.new_cache())
        return cls(
            bundle,
            session,
            tokenizer,
            prefill_session=prefill_session,
            prompt_lookup=prompt_lookup,
            cached_prompts=cached_prompts,
        )

    def stream(
        self,
        prompt: str | Sequence[int],
        sampling: SamplingOptions | None = None,
        *,
        logits_processors: Sequence[LogitsProcessor] = (),
        is_cancelled: IsCancelled | None = None,
    ) -> Iterator[Chunk]:
        """Continue a prompt, piece by piece. Closing the iterator stops the computation.

        Args:
            prompt: text, or token ids. An empty text starts from the BOS token.
            sampling: how tokens are drawn and when the text ends; None for the defaults of SamplingOptions.
            logits_processors: one's own, run in order after those of the options.
            is_cancelled: asked before every token and every chunk of a long prompt, such as the `is_set` of a
                threading.Event; once it says yes, the stream ends with the finish reason "cancelled".

        Raises:
            PromptError, OptionError, ConstraintError: at the call, before anything is computed.
            NumericError: while it computes, where the model or the processors give no logits to draw from.
        """
        return self.start(
            self._prompt_ids(prompt), sampling, logits_processors=logits_processors, is_cancelled=is_cancelled
        ).chunks()

    def generate(
        self,
        prompt: str | Sequence[int],
        sampling: SamplingOptions | None = None,
        *,
        logits_processors: Sequence[LogitsProcessor] = (),
        is_cancelled: IsCancelled | None = None,
    ) -> Generation:
        """`stream`, collected and timed. Takes and raises the same."""
        prompt_ids = self._prompt_ids(prompt)
        stream = self.start(prompt_ids, sampling, logits_processors=logits_processors, is_cancelled=is_cancelled)
        return collect(stream.chunks(), prompt_tokens=len(prompt_ids), cached_tokens=stream.held_tokens)

    def chat(
        self,
        messages: Sequence[Message],
        sampling: SamplingOptions | None = None,
        *,
        is_cancelled: IsCancelled | None = None,
    ) -> Iterator[Chunk]:
        """Stream the assistant's answer to messages such as `[{"role": "user", "content": "Hi"}]`.

        Of the messages, what begins like the last prompt is not computed again (`cached_prompts`); a `ChatSession`
        computes what is new and nothing else, in every precision.

        Raises:
            ChatTemplateError: the bundle has no chat template, or it refuses the messages.
        """
        # The template has put the special tokens in; a second BOS would be one that the model never saw.
        prompt = self.chat_template.render(messages)
        prompt_ids = self.tokenizer.encode_prompt(prompt, add_special_tokens=False)
        return self.stream(prompt_ids, sampling, is_cancelled=is_cancelled)

    def score(self, text: str, prompt: str = "") -> TextScore:
        """The log-probability of each token of a text that follows a prompt; without one, the BOS token.

        Raises:
            PromptError: both together exceed the context, or there is neither a prompt nor a BOS token.
        """
        text_ids = self.tokenizer.encode_prompt(text, add_special_tokens=False)
        prompt_ids = self.tokenizer.encode_prompt(prompt)
        total, context = len(prompt_ids) + len(text_ids), self.session.shape.max_position_embeddings
        if total > context:
            raise PromptError(f"prompt and text have {total} tokens, more than the model's context of {context}")
        if not text_ids:
            return TextScore([], [])
        token_ids, cache = prompt_ids + text_ids, self.session.new_cache(total)
        logprobs: list[float] = []
        with self._lock:
            if len(prompt_ids) > 1:
                self.session.forward(prompt_ids[:-1], cache)
            for start in range(len(prompt_ids) - 1, total - 1, SCORED_AT_ONCE):
                end = min(start + SCORED_AT_ONCE, total - 1)
                logits = self.session.forward(token_ids[start:end], cache, num_logits_to_keep=0)
                logprobs += text_logprobs(logits, token_ids[start + 1 : end + 1])
        return TextScore(text_ids, logprobs)

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The bundle's chat template. Raises ChatTemplateError where there is none."""
        return ChatTemplate(self.bundle)

    def start(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingOptions | None = None,
        *,
        logits_processors: Sequence[LogitsProcessor] = (),
        is_cancelled: IsCancelled | None = None,
        cache: KVCache | None = None,
    ) -> TextStream:
        """A stream on token ids, checked and not yet computing; with a cache it goes on from what that holds."""
        self.session.check_token_ids(prompt_ids)
        prompt_ids = list(prompt_ids)
        continuation = self.continuation(prompt_ids, sampling, logits_processors=logits_processors)

        def steps(new_ids: Sequence[int], cache: KVCache) -> Generator[int]:
            return generate_step(
                self.session,
                new_ids,
                max_new_tokens=continuation.limit,
                sampler=continuation.sample,
                logits_processors=[continuation.process],
                cache=cache,
                prompt_lookup=self._prompt_lookup,
                prefill_session=self._prefill_session,
            )

        release = None
        if cache is None:
            release = self._keep(prompt_ids)
            cache = self._prompts.take(prompt_ids, len(prompt_ids) + continuation.limit)
        return TextStream(
            continuation,
            prompt_ids,
            steps,
            cache,
            prefill_session=self._prefill_session or self.session,
            is_cancelled=is_cancelled,
            release=release,
            lock=self._lock,
        )

    def _keep(self, prompt_ids: Sequence[int]) -> Callable[[KVCache], None]:
        """What keeps a cache for later prompts when the text after this one has ended."""

        def keep(cache: KVCache) -> None:
            if not self._reuses_all:
                whole = min(cache.length, len(prompt_ids)) // self._chunk_tokens * self._chunk_tokens
                cache.trim(whole)
            if cache.length:
                self._prompts.give_back(cache)

        return keep

    def continuation(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingOptions | None = None,
        *,
        logits_processors: Sequence[LogitsProcessor] = (),
    ) -> Continuation:
        """How tokens after a prompt are drawn, and what text they make: for those who run the loop themselves."""
        return Continuation(
            self.session.shape,
            self.tokenizer,
            prompt_ids,
            sampling or SamplingOptions(),
            stop_token_ids=self.bundle.eos_token_ids,
            vocabulary=lambda: self._vocabulary,
            logits_processors=logits_processors,
        )

    @cached_property
    def _vocabulary(self) -> GrammarVocabulary:
        return GrammarVocabulary(self.tokenizer, self.session.shape.vocab_size)

    def _prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        return self.tokenizer.encode_prompt(prompt) if isinstance(prompt, str) else list(prompt)
