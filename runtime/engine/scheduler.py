"""Continuous batching: sequences join and leave a running batch at any step.

The one decode loop of the runtime: a single stream, a chat, a batch and a server are all its users. Each step decodes
one token of every running sequence, in one pass where the session can, and runs a chunk of the first prompt in line.
The design is that of Orca (Yu et al., OSDI 2022), with the chunked prefills of Sarathi (arXiv:2308.16369).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable

from runtime.engine.kv_cache import KVCache, rounded_capacity
from runtime.engine.memory import default_cache_bytes
from runtime.engine.pacing import Pacing
from runtime.engine.prompt_cache import PromptCache
from runtime.engine.row_block import RowBlock
from runtime.engine.sequence import Request, Sequence, SequenceOutput, new_token_limit
from runtime.engine.session import DecoderSession
from runtime.errors import BundleError, OptionError, PromptError

# Rows of a pass: more bring little on a few cores, and others decode beside them.
MAX_ROWS = 16
# Moving this much into a row of the block takes a few milliseconds, less than a step.
MOVED_BYTES_A_STEP = 16 * 2**20


class Scheduler:
    """Runs requests on a session, many at a time, first come, first served. One thread at a time may call it.

    >>> scheduler = Scheduler(session)                                                    # doctest: +SKIP
    >>> sequences = [scheduler.add(Request(ids)) for ids in prompts]                      # doctest: +SKIP
    >>> while scheduler.has_work:                                                         # doctest: +SKIP
    ...     for sequence, token in scheduler.step():
    ...         ...

    A request waits until its cache fits beside those of the running ones; none overtakes it, so that short requests
    cannot starve a long one.

    Args:
        session: decodes, and prefills unless `prefill_session` does.
        prefill_session: another precision of the bundle, over the same caches.
        prompts: caches of earlier sequences; a prefix that a prompt shares with one of them is not computed again.
        max_running: sequences that run at once; None for as many as their caches allow.
        batches: decode sequences in one pass where the session can. False takes their steps one after the other: each
            then has the logits that it has alone in every precision.
        cache_bytes: the most that all caches may take, the kept ones included; None for half of the free memory.
        max_pause_steps: while others decode, a chunk of a prompt takes about this many of their steps at most. None
            runs prompts whole: the best throughput, for work that nobody waits for.

    Raises:
        OptionError: max_running below 1.
    """

    def __init__(
        self,
        session: DecoderSession,
        *,
        prefill_session: DecoderSession | None = None,
        prompts: PromptCache | None = None,
        max_running: int | None = None,
        batches: bool = True,
        cache_bytes: int | None = None,
        max_pause_steps: float | None = None,
    ) -> None:
        if max_running is not None and max_running < 1:
            raise OptionError(f"max_running must be at least 1, not {max_running}")
        self.session = session
        self._prefill_session = prefill_session or session
        self._prompts = prompts
        self._max_running = math.inf if max_running is None else max_running
        self._batches = batches and self._max_running > 1 and session.decodes_rows_together
        self._cache_bytes = default_cache_bytes() if cache_bytes is None else cache_bytes
        self._pacing = None if max_pause_steps is None else Pacing(max_pause_steps)
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._leaving: list[Sequence] = []  # ended; what is kept of their caches is on its way out of the block
        self._block: RowBlock | None = None
        self._added = 0

    @property
    def has_work(self) -> bool:
        """Whether any sequence waits or runs."""
        return bool(self._waiting or self._running)

    @property
    def waiting(self) -> int:
        """Sequences that wait for their turn."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Sequences that run."""
        return len(self._running)

    @property
    def cache_bytes(self) -> int:
        """What the caches of running sequences are counted as, and those of earlier ones that are kept."""
        return self.kept_bytes + self._held_bytes()

    @property
    def kept_bytes(self) -> int:
        """Of `cache_bytes`, the caches of earlier sequences, which make room when others need it."""
        return 0 if self._prompts is None else self._prompts.nbytes

    def add(self, request: Request) -> Sequence:
        """Put a request in line. Nothing is computed before `step`.

        Raises:
            PromptError: no tokens, ids outside the vocabulary, no room for a new token, or a cache beyond the bound.
            OptionError: max_new_tokens does not fit the context, prompt lookup could change tokens, or the cache is of
                another dtype or in use.
        """
        session = self.session
        session.check_token_ids(request.prompt_ids)
        limit = new_token_limit(session.shape, len(request.prompt_ids), request.max_new_tokens)
        if request.prompt_lookup:
            session.check_prompt_lookup()
        if request.cache is not None:
            session.check_cache(request.cache)
            if any(other.request.cache is request.cache for other in (*self._waiting, *self._running)):
                raise OptionError("another sequence uses this cache: give each its own")
        sequence = Sequence(self._added, request, limit, session.stop_token_ids)
        if self._bytes_of(sequence) > self._cache_bytes:
            raise PromptError(
                f"a prompt of {len(request.prompt_ids)} tokens and {limit} new ones need a cache of "
                f"{self._bytes_of(sequence):,} bytes; the bound is {self._cache_bytes:,}: ask for fewer tokens"
            )
        self._added += 1
        self._waiting.append(sequence)
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence, waiting or running, at once; one that has ended stays as it is."""
        if sequence.finish_reason is None:
            sequence.finish_reason = "cancelled"
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        elif sequence in self._running:
            self._release(sequence)
            self._tidy_block()

    def is_waiting(self, sequence: Sequence) -> bool:
        """Whether a sequence has not been let in yet."""
        return sequence in self._waiting

    def step(self) -> list[SequenceOutput]:
        """Go on by one pass or a few; the tokens that came, and the sequences that ended without one.

        Raises nothing for a sequence: what goes wrong with it is its `error`.
        """
        if self._waiting:
            self._admit()
        if len(self._running) == 1 and self._block is None:
            outputs = self._step_of_one(self._running[0])
        elif self._pacing is None:
            outputs = self._prefill_all() or self._decode()
        else:
            started = time.perf_counter()
            outputs = self._decode()
            if outputs:
                self._pacing.decoded(time.perf_counter() - started)
            outputs += self._prefill(self._pacing, disturbed=len(outputs))
        for sequence, _ in outputs:
            if sequence.finish_reason is not None and sequence in self._running:
                self._release(sequence)
        if self._block is not None:
            self._tidy_block()
        return outputs

    def _step_of_one(self, sequence: Sequence) -> list[SequenceOutput]:
        """What the general step comes to for a sequence without company, in microseconds."""
        if sequence.is_paused:
            return []
        return self._decode_alone(sequence) if sequence.is_decoding else self._run_chunk(sequence, None)

    def _tidy_block(self) -> None:
        """Move caches in and out of the block: a part of them, where all at once would hold somebody up."""
        if self._block is not None:
            self._block.move(MOVED_BYTES_A_STEP if self._pacing is not None and self._running else None)

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._max_running:
            needed = self._bytes_of(self._waiting[0])
            held = self._held_bytes()
            if self._prompts is not None:
                self._prompts.shrink(self._cache_bytes - held - needed)
            if held + needed > self._cache_bytes:
                return
            self._running.append(self._waiting.popleft())

    def _held_bytes(self) -> int:
        return sum(self._bytes_of(sequence) for sequence in (*self._running, *self._leaving))

    def _bytes_of(self, sequence: Sequence) -> int:
        if sequence.request.cache is not None:  # the caller's memory
            return 0
        tokens = rounded_capacity(self.session.shape, len(sequence.request.prompt_ids) + sequence.limit)
        return tokens * self.session.cache_bytes_per_token

    def _decode(self) -> list[SequenceOutput]:
        ready = [sequence for sequence in self._running if sequence.is_decoding and not sequence.is_paused]
        together = self._gather(ready) if self._batches else []
        outputs = self._decode_together(together) if together else []
        for sequence in ready:
            if not together or sequence not in together:
                outputs += self._decode_alone(sequence)
        return outputs

    def _gather(self, ready: list[Sequence]) -> list[Sequence]:
        """Those that take this step in one pass; others may be on their way into the block."""
        joining = [sequence for sequence in ready if sequence.request.cache is None and not sequence.looks_up]
        if len(joining) > 1:
            self._block = self._block or RowBlock(self.session, int(min(self._max_running, MAX_ROWS)))
            for sequence in joining:
                self._block.invite(_cache_of(sequence))
        if self._block is None:
            return []
        if self._pacing is None:
            self._block.move()
        return [sequence for sequence in joining if _cache_of(sequence) in self._block]

    def _decode_together(self, sequences: list[Sequence]) -> list[SequenceOutput]:
        caches = {sequence.cache: sequence.token_ids[-1] for sequence in sequences if sequence.cache is not None}
        try:
            logits = self._block.step(caches) if self._block is not None else []
        except BundleError as error:
            return [_failed(sequence, error) for sequence in sequences]
        return [sequence.take(row) for sequence, row in zip(sequences, logits, strict=True)]

    def _decode_alone(self, sequence: Sequence) -> list[SequenceOutput]:
        """A pass over the last token and guesses of those after it, of which the ones that come true are kept."""
        cache = _cache_of(sequence)
        guesses = sequence.guesses() if sequence.looks_up else None
        try:
            if not guesses:
                return [sequence.take(self.session.forward(sequence.token_ids[-1:], cache)[0])]
            rows = self.session.forward([sequence.token_ids[-1], *guesses], cache, num_logits_to_keep=0)
        except (BundleError, PromptError) as error:
            return [_failed(sequence, error)]
        kept = cache.length - len(rows)
        outputs: list[SequenceOutput] = []
        for guess, logits in zip([*guesses, None], rows, strict=True):
            kept += 1  # the token that these logits follow
            outputs.append(sequence.take(logits))
            if sequence.finish_reason is not None or sequence.token_ids[-1] != guess:
                break
        cache.trim(kept)
        return outputs

    def _prefill_all(self) -> list[SequenceOutput]:
        """Run all prompts in line to their end."""
        outputs = []
        for sequence in self._running:
            while not sequence.is_decoding and sequence.finish_reason is None:
                outputs += self._run_chunk(sequence, None)
        return outputs

    def _prefill(self, pacing: Pacing, *, disturbed: int) -> list[SequenceOutput]:
        """Run a chunk of the first prompt in line: a short one where it holds others up."""
        line = [sequence for sequence in self._running if not sequence.is_decoding]
        if not line:
            return []
        if not disturbed:
            return self._run_chunk(line[0], None)
        share = max(1.0, len(line) / disturbed)
        return self._run_chunk(line[0], pacing.budget_tokens(share), share)

    def _run_chunk(self, sequence: Sequence, budget: int | None, share: float = 1.0) -> list[SequenceOutput]:
        try:
            cache = self._begin(sequence) if sequence.cache is None else sequence.cache
            # In a batch-invariant session any cut will do, and a cache of the caller's own holds what it holds.
            is_free = self.session.batch_invariant or sequence.request.cache is not None
            origin = sequence.cached_tokens if is_free else 0
            start, total, started = cache.length, len(sequence.token_ids), time.perf_counter()
            end = origin + self._prefill_session.chunks.end(start - origin, total - origin, budget)
            logits = self._prefill_session.forward(sequence.token_ids[start:end], cache)
        except (BundleError, OptionError, PromptError) as error:
            return [_failed(sequence, error)]
        if self._pacing is not None and budget is not None:
            self._pacing.paused(end - start, time.perf_counter() - started, share)
        return [sequence.take(logits[0])] if end == total else []

    def _begin(self, sequence: Sequence) -> KVCache:
        """Give a sequence its cache, which may hold a beginning of the prompt."""
        prompt_ids, capacity = sequence.token_ids, len(sequence.token_ids) + sequence.limit
        sequence.begun_seconds = time.perf_counter()
        cache = sequence.request.cache
        if cache is not None:
            # The last token must run in any case: its logits are what the new tokens start from.
            cache.trim(min(cache.common_prefix(prompt_ids), len(prompt_ids) - 1))
        elif self._prompts is not None and sequence.request.reuse_prompt:
            cache = self._prompts.take(prompt_ids, capacity, lenders=self._lenders(sequence))
        else:
            cache = self.session.new_cache(capacity)
        sequence.cache, sequence.cached_tokens = cache, cache.length
        return cache

    def _lenders(self, borrower: Sequence) -> Iterable[tuple[KVCache, int]]:
        """The caches of running sequences, and how many of their tokens another one may begin with."""
        for sequence in (*self._running, *self._leaving):
            if sequence is borrower or sequence.cache is None or not sequence.request.reuse_prompt:
                continue
            if self._prompts is not None:
                yield sequence.cache, self._prompts.reusable_tokens(sequence.cache, sequence.prompt_tokens)

    def _release(self, sequence: Sequence) -> None:
        """Take a sequence out, and keep of its cache what later ones may begin with."""
        self._running.remove(sequence)
        cache = sequence.cache
        if cache is None or sequence.request.cache is not None:
            sequence.cache = None
            return
        kept = 0
        if self._prompts is not None and sequence.request.reuse_prompt:
            kept = self._prompts.reusable_tokens(cache, sequence.prompt_tokens)

        def keep() -> None:
            self._leaving.remove(sequence)
            sequence.cache = None
            if self._prompts is not None and kept:
                self._prompts.give_back(cache)

        self._leaving.append(sequence)
        if self._block is None:
            cache.trim(kept)
            keep()
        else:
            self._block.take_out(cache, kept, keep)


def _cache_of(sequence: Sequence) -> KVCache:
    if sequence.cache is None:
        raise RuntimeError("a sequence decodes before its prompt has run")
    return sequence.cache


def _failed(sequence: Sequence, error: Exception) -> SequenceOutput:
    sequence.fail(error)
    return SequenceOutput(sequence, None)
