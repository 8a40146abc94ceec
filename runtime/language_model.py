"""LanguageModel: text in, text out. What users import."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from runtime.bundle import Bundle, ModelShape
from runtime.engine.kv_cache import KVCache
from runtime.engine.prompt_cache import PromptCache, exact_granularity
from runtime.engine.scheduler import Scheduler
from runtime.engine.session import DecoderSession
from runtime.engine.shared_scheduler import SharedScheduler
from runtime.errors import OptionError, PromptError
from runtime.generation.sliding_window import ENDLESS, sliding_deltas
from runtime.generation.text_delta import Generation, TextDelta, collect
from runtime.generation.text_request import TextRequest
from runtime.generation.text_stream import IsCancelled, TextStream
from runtime.sampling.constraint import GrammarVocabulary
from runtime.sampling.logits_processors import LogitsProcessor
from runtime.sampling.logprobs import TextScore, text_logprobs
from runtime.sampling.options import SamplingOptions
from runtime.text.chat_template import ChatTemplate, Message
from runtime.text.tokenizer import Tokenizer

# While streams decode, a chunk of another's prompt takes about one of their steps: nobody waits for three.
MAX_PAUSE_STEPS = 0.9
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
        max_running: int | None = None,
        max_pause_steps: float = MAX_PAUSE_STEPS,
    ) -> None:
        self.bundle = bundle
        self.session = session
        self.tokenizer = tokenizer
        self._prompt_lookup = prompt_lookup
        # A text must not depend on what was computed before it.
        granularity = exact_granularity(session, prefill_session)
        self._scheduler = SharedScheduler(
            Scheduler(
                session,
                prefill_session=prefill_session,
                prompts=PromptCache(session, cached_prompts, granularity),
                max_running=max_running,
                batches=session.has_independent_rows,  # nor on who else is served
                max_pause_steps=max_pause_steps,
            )
        )

    @classmethod
    def load(
        cls,
        source: str | Path | Bundle,
        *,
        precision: str | None = None,
        prefill_precision: str | None = None,
        threads: int | None = None,
        prompt_lookup: bool = False,
        batch_invariant: bool = False,
        cached_prompts: int = 1,
        max_running: int | None = None,
        max_pause_steps: float = MAX_PAUSE_STEPS,
        revision: str | None = None,
    ) -> LanguageModel:
        """Open a bundle.

        Args:
            source: a local folder, a Hub id, or a bundle that is open already.
            precision: "int8", "q8", "fp32", ...; None for the best that is there (int8 first).
            prefill_precision: another one that runs prompts, over the same cache; "q8" ("q8-kv8" before "int8-kv8") is
                fastest at many tokens at once, at the price of a second set of weights in memory.
            threads: of a matrix product; None for the physical cores that we may use.
            prompt_lookup: check several tokens at once that are guessed from the text so far: faster where the output
                repeats the prompt, and the tokens are the same. In "int8-kv8", in fp32, or with `batch_invariant`.
            batch_invariant: give the same bits however tokens are grouped into passes; steps cost a tenth more (see
                DecoderSession). One precision must run prompts and steps then.
            cached_prompts: keep the caches of this many last generations. A prefix that a prompt shares with one of
                them is not computed again, and the text is the same: multiples of 16 tokens of the prompt are reused
                (256 in q8), and in a batch-invariant session that runs its own prompts every token of it and of the
                answer.
            max_running: texts that are generated at once; others wait in line. None for as many as fit the memory.
            max_pause_steps: while texts are generated, a piece of a new prompt takes about this many of their steps:
                more for a crowd's tokens a second, fewer for steady streams.
            revision: branch, tag or commit of a Hub id.

        Raises:
            BundleError: it is no sound bundle.
            OptionError: it lacks the precision, threads < 1, cached_prompts < 0, max_running < 1, the two precisions do
                not go together, q8 cannot be batch-invariant, or prompt lookup could change tokens.
        """
        bundle = source if isinstance(source, Bundle) else Bundle.open(source, revision=revision)
        tokenizer = Tokenizer(bundle)
        session = DecoderSession(
            bundle, precision or bundle.default_precision, threads=threads, batch_invariant=batch_invariant
        )
        if prompt_lookup:
            session.check_prompt_lookup()
        prefill_session = None
        if prefill_precision is not None and prefill_precision != session.precision:
            if batch_invariant:  # rows of another precision are not the bits of this one's
                raise OptionError(
                    f"a batch-invariant {session.precision} runs its prompts itself, not in {prefill_precision}"
                )
            prefill_session = DecoderSession(bundle, prefill_precision, threads=threads)
            prefill_session.check_cache(session.new_cache())
        return cls(
            bundle,
            session,
            tokenizer,
            prefill_session=prefill_session,
            prompt_lookup=prompt_lookup,
            cached_prompts=cached_prompts,
            max_running=max_running,
            max_pause_steps=max_pause_steps,
        )

    def __repr__(self) -> str:
        """The bundle's folder and the precision."""
        return f"LanguageModel({str(self.bundle.folder)!r}, precision={self.session.precision!r})"

    @property
    def scheduler(self) -> SharedScheduler:
        """What runs the texts: a server adds its own requests, and takes turns with other threads."""
        return self._scheduler

    def stream(
        self,
        prompt: str | Sequence[int],
        sampling: SamplingOptions | None = None,
        *,
        logits_processors: Sequence[LogitsProcessor] = (),
        is_cancelled: IsCancelled | None = None,
    ) -> Iterator[TextDelta]:
        """Continue a prompt, piece by piece. Closing the iterator stops the computation.

        Args:
            prompt: text, or token ids. An empty text starts from the BOS token.
            sampling: how tokens are drawn and when the text ends; None for `default_sampling`.
            logits_processors: one's own, run in order after those of the options.
            is_cancelled: asked before every token and every chunk of a long prompt, such as the `is_set` of a
                threading.Event; once it says yes, the stream ends with the finish reason "cancelled".

        Raises:
            PromptError, OptionError, ConstraintError: at the call, before anything is computed.
            NumericError: while it computes, where the model or the processors give no logits to draw from.
        """
        return self.start(
            self._prompt_ids(prompt), sampling, logits_processors=logits_processors, is_cancelled=is_cancelled
        ).deltas()

    def stream_past_context(
        self,
        prompt: str | Sequence[int],
        sampling: SamplingOptions | None = None,
        *,
        logits_processors: Sequence[LogitsProcessor] = (),
        is_cancelled: IsCancelled | None = None,
    ) -> Iterator[TextDelta]:
        """`stream`, but approximate past the context: when it is full, its last half runs again as a new prompt.

        The text may have any length, and the prompt too. It is computed alone, without prompt lookup.
        """
        self.session.check_token_ids(prompt_ids := self._prompt_ids(prompt))
        came: deque[TextDelta] = deque()
        text = self.text_request(
            prompt_ids,
            sampling,
            logits_processors=logits_processors,
            on_delta=came.append,
            shape=replace(self.session.shape, max_position_embeddings=ENDLESS),
        )
        return sliding_deltas(text, came, self.session, self._scheduler, is_cancelled)

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
        result = collect(stream.deltas(), prompt_tokens=len(prompt_ids))
        result.cached_tokens = stream.cached_tokens
        return result

    def chat(
        self,
        messages: Sequence[Message],
        sampling: SamplingOptions | None = None,
        *,
        logits_processors: Sequence[LogitsProcessor] = (),
        is_cancelled: IsCancelled | None = None,
    ) -> Iterator[TextDelta]:
        """Stream the assistant's answer to messages such as `[{"role": "user", "content": "Hi"}]`.

        A prefix shared with an earlier prompt is not computed again (`cached_prompts`); a `ChatSession` computes what
        is new and nothing else, in every precision.

        Raises:
            ChatTemplateError: the bundle has no chat template, or it refuses the messages.
        """
        # The template has put the special tokens in; a second BOS would be one that the model never saw.
        prompt = self.chat_template.render(messages)
        prompt_ids = self.tokenizer.encode_prompt(prompt, add_special_tokens=False)
        return self.stream(prompt_ids, sampling, logits_processors=logits_processors, is_cancelled=is_cancelled)

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
        with self._scheduler.turn():
            if len(prompt_ids) > 1:
                self.session.forward(prompt_ids[:-1], cache)
            for start in range(len(prompt_ids) - 1, total - 1, SCORED_AT_ONCE):
                end = min(start + SCORED_AT_ONCE, total - 1)
                logits = self.session.forward(token_ids[start:end], cache, num_logits_to_keep=0)
                logprobs += text_logprobs(logits, token_ids[start + 1 : end + 1])
        return TextScore(text_ids, logprobs)

    @cached_property
    def default_sampling(self) -> SamplingOptions:
        """What `generation_config.json` sets, and the defaults of SamplingOptions for the rest.

        A length of the file that does not fit is cut; one that the caller sets, as in
        `dataclasses.replace(model.default_sampling, max_new_tokens=64)`, is an OptionError.
        """
        return SamplingOptions(**self.bundle.generation_defaults)

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

        def make_request(on_delta: Callable[[TextDelta], object]) -> TextRequest:
            return self.text_request(
                prompt_ids, sampling, logits_processors=logits_processors, cache=cache, on_delta=on_delta
            )

        return TextStream(make_request, self._scheduler, is_cancelled=is_cancelled)

    def text_request(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingOptions | None = None,
        *,
        logits_processors: Sequence[LogitsProcessor] = (),
        cache: KVCache | None = None,
        reuse_prompt: bool = True,
        on_delta: Callable[[TextDelta], object],
        shape: ModelShape | None = None,
    ) -> TextRequest:
        """A request for `scheduler`, or one of one's own, whose tokens come as pieces of text; see TextRequest.

        `shape` bounds their number.
        """
        return TextRequest(
            shape or self.session.shape,
            self.tokenizer,
            prompt_ids,
            self.default_sampling if sampling is None else sampling,
            stop_token_ids=self.bundle.eos_token_ids,
            vocabulary=lambda: self._vocabulary,
            logits_processors=logits_processors,
            prompt_lookup=self._prompt_lookup,
            cache=cache,
            reuse_prompt=reuse_prompt,
            on_delta=on_delta,
        )

    @cached_property
    def _vocabulary(self) -> GrammarVocabulary:
        return GrammarVocabulary(self.tokenizer, self.session.shape.vocab_size)

    def _prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        return self.tokenizer.encode_prompt(prompt) if isinstance(prompt, str) else list(prompt)
