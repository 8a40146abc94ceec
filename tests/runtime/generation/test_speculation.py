"""Guesses change the number of passes and nothing else."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from runtime import Bundle, DecoderSession, SamplingOptions
from runtime.engine.prompt_lookup import LONGEST_MATCH, MOST_GUESSES, PromptLookup
from runtime.errors import OptionError
from runtime.generation.generate import generate_step
from runtime.sampling.logits_processors import repetition_penalty
from runtime.sampling.sampler import make_sampler
from tests.runtime.options import token_ids


@pytest.fixture(scope="module")
def open_session(request):
    def make(name, precision, **options):
        bundle = Bundle.open(request.getfixturevalue(f"{name}_bundle"))
        return DecoderSession(bundle, precision, threads=1, **options)

    return make


def repeating_prompt(session, period=12, times=4, seed=0):
    """Text that repeats itself, so that there is something to look up."""
    once = np.random.default_rng(seed).integers(3, session.shape.vocab_size, period).tolist()
    return once * times


def run(session, prompt, tokens, *, temperature=0.0, seed=0, prompt_lookup=False, processors=()):
    sampler = make_sampler(SamplingOptions(temperature=temperature, top_p=1, seed=seed))
    return token_ids(
        generate_step(
            session,
            prompt,
            stop_token_ids=(),
            max_new_tokens=tokens,
            sampler=sampler,
            logits_processors=processors,
            prompt_lookup=prompt_lookup,
        )
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("name", "precision", "batch_invariant"),
    [("tiny", "fp32", False), ("stories260k", "fp32", False), ("int8_cache", "int8-kv8", False)]
    + [(name, precision, True) for name in ("tiny", "stories260k") for precision in ("fp32", "int8")],
)
def test_the_tokens_are_those_without_guesses(name, precision, batch_invariant, temperature, open_session):
    session = open_session(name, precision, batch_invariant=batch_invariant)
    for seed in range(4):
        prompt = repeating_prompt(session, seed=seed)
        options = {"temperature": temperature, "seed": seed, "processors": [repetition_penalty(1.1)]}
        assert run(session, prompt, 100, prompt_lookup=True, **options) == run(session, prompt, 100, **options)


@pytest.mark.parametrize(
    ("name", "precision", "batch_invariant"),
    [(name, precision, True) for name in ("tiny", "stories260k") for precision in ("fp32", "int8")]
    + [("int8_cache", "int8-kv8", False), ("int8_cache", "q4-kv8", True)],
)
@pytest.mark.parametrize("sizes", [[1], [2], [3, 1, 5], [17], [16, 33], [129]])
def test_a_reproducible_session_gives_the_same_bits_however_the_tokens_come(
    sizes, name, precision, batch_invariant, open_session
):
    session = open_session(name, precision, batch_invariant=batch_invariant)
    assert session.batch_invariant
    ids = np.random.default_rng(0).integers(3, session.shape.vocab_size, 145).tolist()
    whole = session.forward(ids, session.new_cache(), num_logits_to_keep=0)
    cache, place, number = session.new_cache(), 0, 0
    while place < len(ids):
        size = sizes[number % len(sizes)]
        number += 1
        last = session.forward(ids[place : place + size], cache)[0]
        place = min(place + size, len(ids))
        if place > 1:  # a first token alone has none before it
            np.testing.assert_array_equal(last, whole[place - 1])


@pytest.mark.parametrize("precision", ["int8", "q8"])
def test_where_guesses_could_change_tokens_there_are_none(precision, open_session):
    session = open_session("stories260k", precision)
    with pytest.raises(OptionError, match=f"could change tokens in {precision}.* choose the precision int8-kv8"):
        next(generate_step(session, [1, 2], stop_token_ids=(), prompt_lookup=True))


def test_sampled_tokens_have_the_models_own_distribution(open_session):
    """A chi-square test over two tokens in a row after a prompt that makes guesses, at 2,500 draws."""
    session = open_session("tiny", "fp32")
    prompt = repeating_prompt(session, period=6, times=4)
    draws, kept = 2500, 12
    lookup = PromptLookup(prompt)
    guess = lookup.guesses()
    assert guess

    # The guess must be likely enough to be right and wrong: the guessed token gets logits near the top.
    def tilt(token_ids, logits):
        logits = logits.copy()
        logits[guess[0]] = logits.max() + 0.5
        logits[kept:] = np.where(np.arange(kept, len(logits)) == guess[0], logits[kept:], -np.inf)
        return logits

    first = tilt(prompt, session.forward(prompt, session.new_cache())[0])
    random = np.random.default_rng(5)

    def sampler(logits):
        weights = np.exp(logits - logits.max())
        return int(random.choice(len(logits), p=weights / weights.sum()))

    cache = session.new_cache(len(prompt) + 8)
    counted = Counter()
    for _ in range(draws):
        cache.trim(min(cache.length, len(prompt) - 1))
        rest = prompt[cache.length :]
        steps = generate_step(
            session,
            rest,
            stop_token_ids=(),
            max_new_tokens=2,
            sampler=sampler,
            logits_processors=[tilt],
            cache=cache,
            prompt_lookup=True,
        )
        counted[tuple(token_ids(steps))] += 1
    expected = {}
    weights = np.exp(first - first.max())
    for token_id in np.flatnonzero(weights):
        second = tilt([], session.forward([*prompt, int(token_id)], session.new_cache())[0])
        after = np.exp(second - second.max())
        for other in np.flatnonzero(after):
            probability = weights[token_id] / weights.sum() * after[other] / after.sum()
            expected[int(token_id), int(other)] = draws * probability
    assert set(counted) <= set(expected)
    # Cells of fewer than five expected draws are counted together.
    large = {pair: count for pair, count in expected.items() if count >= 5}
    cells = [(counted[pair], count) for pair, count in large.items()]
    cells.append((draws - sum(found for found, _ in cells), draws - sum(count for _, count in cells)))
    chi_square = sum((found - count) ** 2 / count for found, count in cells if count > 0)
    freedom = len(cells) - 1
    # Wilson and Hilferty: chi-square's cube root is nearly normal; a right program fails once in a million seeds.
    z = ((chi_square / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert z < 4.75


def test_n_tokens_cost_one_prefill_and_fewer_passes_where_guesses_come_true(open_session, monkeypatch):
    session = open_session("tiny", "fp32")
    prompt, passes = repeating_prompt(session), []
    forward = session.forward

    def counting(token_ids, cache, **options):
        passes.append(len(token_ids))
        return forward(token_ids, cache, **options)

    monkeypatch.setattr(session, "forward", counting)
    period = prompt[:12]
    follow = iter(period * 20)
    options = {"sampler": lambda _: next(follow), "prompt_lookup": True}
    ids = token_ids(generate_step(session, prompt, stop_token_ids=(), max_new_tokens=100, **options))
    assert ids == (period * 20)[:100]
    assert passes[0] == len(prompt)
    assert len(passes) <= 1 + math.ceil(99 / (MOST_GUESSES + 1)) + 2
    assert max(passes[1:]) == MOST_GUESSES + 1


@pytest.mark.parametrize("count", [1, 2, 7, 20])
def test_leaving_in_the_middle_of_the_guesses_leaves_the_cache_at_what_was_given(count, open_session):
    session = open_session("tiny", "fp32")
    prompt = repeating_prompt(session)
    follow = iter(prompt * 9)
    cache = session.new_cache()
    steps = generate_step(
        session,
        prompt,
        stop_token_ids=(),
        max_new_tokens=100,
        sampler=lambda _: next(follow),
        cache=cache,
        prompt_lookup=True,
    )
    given = [next(steps).token_id for _ in range(count)]
    steps.close()
    assert cache.token_ids == [*prompt, *given[:-1]]


def test_up_to_the_end_of_the_context(open_session):
    session = open_session("tiny", "fp32", batch_invariant=True)
    prompt = repeating_prompt(session)
    room = session.shape.max_position_embeddings - len(prompt)
    assert run(session, prompt, room, prompt_lookup=True) == run(session, prompt, room)


def test_what_followed_the_last_time_is_guessed():
    text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    lookup = PromptLookup([*text, 0, 0, *text[:6]])
    assert lookup.guesses()[:3] == [7, 8, 9]
    assert lookup.guesses(2) == [7, 8]
    assert lookup.guesses(0) == []


def test_nothing_is_guessed_where_nothing_recurs():
    assert PromptLookup().guesses() == []
    assert PromptLookup([1]).guesses() == []
    assert PromptLookup(range(100)).guesses() == []


def test_a_copy_with_a_token_changed_is_guessed_on_behind_the_change():
    text = list(range(30))
    lookup = PromptLookup([*text, 100, *text[:12]])
    lookup.push(200)  # instead of 12
    assert lookup._source is not None
    for token_id in text[13:17]:
        lookup.push(token_id)
    assert lookup.guesses()[:3] == [17, 18, 19]


def test_guesses_that_fail_are_no_longer_made_and_made_again_when_they_would_come_true():
    random = np.random.default_rng(0)
    lookup = PromptLookup(random.integers(0, 4, 400).tolist())  # pairs recur all the time, and mean nothing
    tried = 0
    for token_id in random.integers(0, 4, 400).tolist():
        tried += bool(lookup.guesses())
        lookup.push(token_id)
    assert tried < 60
    for token_id in list(range(10, 50)) * 3:
        lookup.push(token_id)
    assert len(lookup.guesses()) == MOST_GUESSES


def test_the_lookup_is_that_of_a_plain_search():
    random = np.random.default_rng(1)
    text = random.integers(0, 6, 600).tolist()
    lookup = PromptLookup()
    for length, token_id in enumerate(text, start=1):
        lookup.push(token_id)
        if lookup._source is None:
            assert not any(text[i : i + 2] == text[length - 2 : length] for i in range(length - 2))
        else:
            matched = lookup._match
            assert text[lookup._source - matched : lookup._source] == text[length - matched : length]
            assert 0 <= matched <= LONGEST_MATCH


def tokens_for_the_cost(prompt, output, row_cost=0.25):
    """Tokens for the cost of a plain step, if the model says exactly `output`."""
    lookup, place, cost = PromptLookup(prompt), 0, 0.0
    while place < len(output):
        guesses = lookup.guesses(len(output) - place - 1)
        cost += 1 + row_cost * len(guesses)
        for guess in [*guesses, None]:
            lookup.push(output[place])
            place += 1
            if guess != output[place - 1]:
                break
    return len(output) / cost


@pytest.mark.parametrize("name", ["tinystories-sample.txt", "tom-sawyer.txt", "wikitext2-test.txt"])
def test_on_real_text_guesses_lose_nothing_where_it_is_new_and_gain_where_it_is_copied(name, shared_data, tokenizers):
    text = (shared_data / "corpora" / name).read_text(encoding="utf-8")
    tokenizer, random = tokenizers("smollm2"), np.random.default_rng(0)
    free, copied, edited = [], [], []
    for start in range(0, 200_000, 10_000):
        ids = tokenizer.encode(text[start : start + 4000], add_special_tokens=False)[:500]
        free.append(tokens_for_the_cost(ids[:200], ids[200:]))
        copied.append(tokens_for_the_cost(ids[:300] + ids[:8], ids[8:158]))
        changed = [token_id if random.random() > 1 / 12 else -1 for token_id in ids[8:158]]
        edited.append(tokens_for_the_cost(ids[:300] + ids[:8], changed))
    assert min(free) > 0.95
    assert np.mean(free) > 0.985
    assert np.median(copied) > 3
    assert np.median(edited) > 1.6
