"""Continuous batching over a fake session: everybody gets exactly his tokens, and every byte comes back."""

from __future__ import annotations

import random

import numpy as np
import pytest

from runtime import PromptCache, Request, SamplingOptions, Scheduler
from runtime.engine.kv_cache import rounded_capacity
from runtime.errors import BundleError, NumericError, OptionError, PromptError
from runtime.sampling.sampler import make_sampler
from tests.runtime.engine.fake_session import VOCAB_SIZE, FakeSession, chaotic

SCHEDULES = 500


def alone(prompt_ids, count, stops=()):
    """What a model of no company says."""
    ids = list(prompt_ids)
    while len(ids) - len(prompt_ids) < count and (token_id := chaotic(ids)) not in stops:
        ids.append(token_id)
    return ids[len(prompt_ids) :]


def run(scheduler, steps=100_000):
    """Step until all is done; the outputs by sequence."""
    came = {}
    for _ in range(steps):
        if not scheduler.has_work:
            return came
        for sequence, token in scheduler.step():
            came.setdefault(sequence.index, []).append(token)
    raise AssertionError("it never ends")


@pytest.mark.parametrize("max_pause_steps", [None, 1.5])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("kept", [0, 3])
def test_over_random_schedules_each_gets_its_tokens_and_every_byte_comes_back(kept, together, max_pause_steps):
    for seed in range(SCHEDULES // 8 + 1):
        randomness = random.Random(seed)
        session = FakeSession(decodes_rows_together=together, chunk_tokens=randomness.choice((16, 32, 64)))
        prompts = PromptCache(session, kept, randomness.choice((1, 16))) if kept else None
        longest = rounded_capacity(session.shape, 200) * session.cache_bytes_per_token
        bound = longest * randomness.choice((1, 3, 50))
        scheduler = Scheduler(
            session,
            prompts=prompts,
            max_running=randomness.choice((1, 2, 5, None)),
            cache_bytes=bound,
            max_pause_steps=max_pause_steps,
        )
        sequences, cancelled = drive(scheduler, randomness, bound)
        for sequence in sequences:
            request = sequence.request
            expected = alone(request.prompt_ids, request.max_new_tokens, request.stop_token_ids)
            if sequence.index in cancelled:
                assert sequence.finish_reason == "cancelled"
                assert sequence.new_ids == expected[: len(sequence.new_ids)]
            else:
                assert sequence.new_ids == expected
                assert sequence.finish_reason == ("length" if len(expected) == request.max_new_tokens else "stop")
        if prompts is not None:
            prompts.clear()
        assert scheduler.cache_bytes == 0
        block = scheduler._block
        assert block is None or not (any(block._caches) or block._moves)


def drive(scheduler, randomness, bound):
    """Requests that come, pause and are cancelled at random, until all have ended. Who came, and who was cancelled."""
    systems = [[randomness.randrange(VOCAB_SIZE) for _ in range(70)] for _ in range(2)]
    sequences, cancelled = [], set()
    for _ in range(randomness.randint(10, 60)):
        if randomness.random() < 0.4 and len(sequences) < 12:
            sequences.append(scheduler.add(random_request(randomness, systems)))
        if sequences and randomness.random() < 0.15:
            sequence = randomness.choice(sequences)
            if sequence.finish_reason is None:
                cancelled.add(sequence.index)
            scheduler.cancel(sequence)
        for sequence in sequences:
            sequence.is_paused = randomness.random() < 0.2
        scheduler.step()
        assert scheduler.cache_bytes <= bound
    for sequence in sequences:
        sequence.is_paused = False
    run(scheduler)
    return sequences, cancelled


def random_request(randomness, systems):
    own = [randomness.randrange(VOCAB_SIZE) for _ in range(randomness.randint(1, 60))]
    return Request(
        randomness.choice(([], *systems)) + own,
        randomness.randint(1, 60),
        stop_token_ids=(randomness.randrange(VOCAB_SIZE),) if randomness.random() < 0.3 else (),
        prompt_lookup=randomness.random() < 0.2,
    )


def test_rows_that_decode_share_a_pass():
    session = FakeSession()
    scheduler = Scheduler(session)
    for number in range(4):
        scheduler.add(Request([number + 1] * 3, 10))
    run(scheduler)
    assert session.passes == [(1, 3)] * 4 + [(4, 1)] * 9


def test_a_row_that_ends_makes_room_for_the_next_in_line():
    session = FakeSession()
    scheduler = Scheduler(session, max_running=2)
    counts = [3, 9, 4]
    for count in counts:
        scheduler.add(Request([1, 2], count))
    run(scheduler)
    steps = [rows for rows, tokens in session.passes if tokens == 1]
    assert sum(steps) == sum(count - 1 for count in counts)
    assert max(steps) == 2


def test_a_sequence_alone_in_its_own_memory_never_enters_the_block():
    session = FakeSession()
    scheduler = Scheduler(session, max_pause_steps=1.5)
    scheduler.add(Request([1, 2, 3], 20))
    run(scheduler)
    assert scheduler._block is None


def test_a_long_prompt_runs_in_small_chunks_between_the_steps_of_others():
    session = FakeSession(chunk_tokens=256)
    scheduler = Scheduler(session, max_pause_steps=1.5)
    scheduler._pacing = Pace(16)
    first = scheduler.add(Request([1, 2], 100))
    while not first.is_decoding:
        scheduler.step()
    scheduler.add(Request(list(range(40)) * 5, 5))
    gaps, gap = [], 0
    while first.finish_reason is None:
        session.passes.clear()
        came = scheduler.step()
        gap += sum(tokens for rows, tokens in session.passes if tokens > 1)
        if any(sequence is first for sequence, _ in came):
            gaps.append(gap)
            gap = 0
    assert sum(gaps) >= 200 - 1
    assert max(gaps) <= 16 + 1


class Pace:
    """A pace that never changes."""

    def __init__(self, budget_tokens):
        self._budget_tokens = budget_tokens

    def budget_tokens(self, share=1.0):
        return int(self._budget_tokens * share)

    def decoded(self, seconds):
        pass

    def paused(self, tokens, seconds, share=1.0):
        pass


def test_a_long_line_of_prompts_is_not_held_up_by_few_who_decode():
    """Few tokens a step for six prompts would leave the others waiting, and the passes with few rows."""
    session = FakeSession(chunk_tokens=256)
    scheduler = Scheduler(session, max_pause_steps=1.5)
    scheduler._pacing = Pace(4)
    first = scheduler.add(Request([1, 2], 200))
    while not first.is_decoding:
        scheduler.step()
    line = [scheduler.add(Request([number] * 24, 100)) for number in range(6)]
    steps = 0
    while not all(sequence.is_decoding for sequence in line):
        scheduler.step()
        steps += 1
    # Budgets of 6/1, 5/2, 4/3 times 4 tokens, and then of 4: at 4 alone it would take 36 steps.
    assert steps <= 30
    assert len(first.new_ids) >= steps


def test_first_come_is_first_served_and_a_long_one_is_not_overtaken():
    session = FakeSession()
    bytes_of = session.cache_bytes_per_token
    scheduler = Scheduler(session, cache_bytes=(256 + 64) * bytes_of)
    running = scheduler.add(Request([1] * 10, 50))
    long = scheduler.add(Request([2] * 200, 100))  # 320 tokens: fits alone only
    short = [scheduler.add(Request([3] * 4, 4)) for _ in range(3)]
    ended = []
    while scheduler.has_work:
        ended += [sequence for sequence, _ in scheduler.step() if sequence.finish_reason]
    assert ended == [running, long, *short]


def test_who_is_cancelled_while_waiting_leaves_at_once():
    scheduler = Scheduler(FakeSession(), max_running=1)
    first, second, third = (scheduler.add(Request([number], 5)) for number in (1, 2, 3))
    scheduler.step()
    scheduler.cancel(second)
    assert scheduler.waiting == 1
    assert second.finish_reason == "cancelled"
    scheduler.cancel(second)  # twice does no harm
    run(scheduler)
    assert (first.finish_reason, third.finish_reason) == ("length", "length")
    assert second.new_ids == []


def test_a_request_beyond_the_bound_is_refused_and_says_the_bound():
    session = FakeSession()
    scheduler = Scheduler(session, cache_bytes=100 * session.cache_bytes_per_token)
    with pytest.raises(PromptError, match=r"need a cache of 1,536 bytes; the bound is 800"):
        scheduler.add(Request([1] * 100, 50))
    with pytest.raises(PromptError, match="context is 512"):
        scheduler.add(Request([1] * 600))
    assert not scheduler.has_work


def test_kept_caches_give_way_to_a_request_that_needs_their_room():
    session = FakeSession()
    prompts = PromptCache(session, 4)
    scheduler = Scheduler(session, prompts=prompts, cache_bytes=128 * session.cache_bytes_per_token)
    scheduler.add(Request([1] * 40, 10))
    run(scheduler)
    assert scheduler.cache_bytes == 64 * session.cache_bytes_per_token
    scheduler.add(Request([2] * 90, 10))
    run(scheduler)
    assert prompts.take([1] * 40).length == 0


def test_a_shared_prefix_is_computed_once_even_while_its_first_user_runs():
    session = FakeSession(chunk_tokens=64)
    scheduler = Scheduler(session, prompts=PromptCache(session, 2), max_pause_steps=1.5)
    system = list(range(40)) * 3
    first = scheduler.add(Request([*system, 1, 2], 30))
    while len(first.new_ids) < 3:
        scheduler.step()
    session.passes.clear()
    second = scheduler.add(Request([*system, 3, 4, 5], 5))
    run(scheduler)
    assert second.cached_tokens == len(system)
    assert sum(tokens for _, tokens in session.passes if tokens > 1) == 3
    assert second.new_ids == alone([*system, 3, 4, 5], 5)
    assert first.new_ids == alone([*system, 1, 2], 30)
    again = scheduler.add(Request([*system, 3, 4, 5, *second.new_ids, 6], 2))  # the next turn of the second
    run(scheduler)
    assert again.cached_tokens == len(system) + 3 + 4


@pytest.mark.parametrize("kind", ["processor", "sampler", "on_token", "nan"])
@pytest.mark.parametrize("together", [True, False])
def test_what_goes_wrong_in_one_sequence_ends_that_one_alone(together, kind):
    session = FakeSession(decodes_rows_together=together)
    scheduler = Scheduler(session)

    def broken(*_):
        if len(bad.token_ids) == 6:
            raise ZeroDivisionError("mine")
        return None if kind == "on_token" else 7 if kind == "sampler" else _[1]

    def nan(ids, logits):
        return logits * np.nan if len(ids) == 6 else logits

    options = {
        "processor": {"logits_processors": [broken]},
        "sampler": {"sampler": broken},
        "on_token": {"on_token": broken},
        "nan": {"logits_processors": [nan]},
    }[kind]
    good = [scheduler.add(Request([number, number], 20)) for number in (1, 2)]
    bad = scheduler.add(Request([3, 3], 20, **options))
    run(scheduler)
    assert bad.finish_reason == "error"
    assert isinstance(bad.error, NumericError if kind == "nan" else ZeroDivisionError)
    assert [sequence.new_ids for sequence in good] == [alone([number, number], 20) for number in (1, 2)]
    assert scheduler.cache_bytes == 0


def test_a_graph_that_fails_ends_those_of_its_pass():
    session = FakeSession()
    scheduler = Scheduler(session)
    sequences = [scheduler.add(Request([number], 20)) for number in (1, 2)]
    scheduler.step()
    scheduler.step()

    def failing(*_):
        raise BundleError("no memory")

    scheduler._block._bindings[2].step = failing
    run(scheduler)
    assert [str(sequence.error) for sequence in sequences] == ["no memory"] * 2
    assert scheduler.cache_bytes == 0


def test_each_sequence_has_its_own_sampling_and_seed():
    session = FakeSession()

    def tokens(count):
        scheduler = Scheduler(session)
        samplers = [make_sampler(SamplingOptions(temperature=10, top_p=1, seed=seed)) for seed in range(count)]
        sequences = [scheduler.add(Request([1, 2, 3], 20, sampler)) for sampler in samplers]
        run(scheduler)
        return [sequence.new_ids for sequence in sequences]

    together = tokens(5)
    assert len({tuple(ids) for ids in together}) == 5
    assert together[:1] == tokens(1)


def test_a_paused_sequence_takes_no_step_and_loses_nothing():
    session = FakeSession()
    scheduler = Scheduler(session, max_pause_steps=1.5)
    first, second = (scheduler.add(Request([number] * 3, 30)) for number in (1, 2))
    for _ in range(6):
        scheduler.step()
    first.is_paused, held = True, len(first.new_ids)
    for _ in range(5):
        scheduler.step()
    assert len(first.new_ids) == held
    first.is_paused = False
    run(scheduler)
    assert [first.new_ids, second.new_ids] == [alone([1] * 3, 30), alone([2] * 3, 30)]


def test_log_probabilities_are_the_models_own_where_a_processor_or_sampler_edits_in_place():
    def shifting(_, logits):
        logits += np.arange(len(logits), dtype=np.float32)
        return logits

    def wiping(logits):
        token_id = int(logits.argmax())
        logits[:] = 0
        return token_id

    logits = FakeSession().forward([1, 2, 3], FakeSession().new_cache())[0]
    own = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    for options in ({"logits_processors": [shifting]}, {"sampler": wiping}):
        scheduler = Scheduler(FakeSession())
        scheduler.add(Request([1, 2, 3], 1, top_logprobs=2, **options))
        ((_, token),) = scheduler.step()
        assert token.logprob == pytest.approx(own[token.token_id], abs=1e-5)
        assert token.top_logprobs[0].logprob == pytest.approx(own.max(), abs=1e-5)


def test_one_cache_cannot_serve_two_sequences():
    session = FakeSession()
    scheduler, cache = Scheduler(session), session.new_cache()
    scheduler.add(Request([1], 5, cache=cache))
    with pytest.raises(OptionError, match="another sequence uses this cache"):
        scheduler.add(Request([2], 5, cache=cache))


def test_nothing_to_run_at_once_is_refused():
    with pytest.raises(OptionError, match="max_running must be at least 1, not 0"):
        Scheduler(FakeSession(), max_running=0)
