"""What two prompts begin with is computed once, whatever became of the first."""

from __future__ import annotations

import numpy as np
import pytest

from runtime import Bundle, DecoderSession, LanguageModel, SamplingOptions
from runtime.engine.kv_cache import KVCache
from runtime.engine.prompt_cache import PromptCache
from runtime.generation.generate import generate_step
from tests.runtime.options import token_ids


@pytest.fixture
def session(tiny_bundle):
    return DecoderSession(Bundle.open(tiny_bundle), "fp32", threads=1, batch_invariant=True)


@pytest.fixture
def prefilled(session, monkeypatch):
    """How many tokens each pass ran."""
    counted = []
    run = session._run_chunk
    monkeypatch.setattr(session, "_run_chunk", lambda ids, *rest: (counted.append(ids.shape[1]), run(ids, *rest))[1])
    return counted


def random_ids(count, seed=0):
    return np.random.default_rng(seed).integers(3, 320, count).tolist()


def generate(session, prompts, prompt_ids, count):
    cache = prompts.take(prompt_ids, len(prompt_ids) + count)
    ids = token_ids(
        generate_step(session, prompt_ids[cache.length :], stop_token_ids=(), max_new_tokens=count, cache=cache)
    )
    prompts.give_back(cache)
    return ids


def test_a_conversation_prefills_what_is_new(session, prefilled):
    prompts = PromptCache(session)
    first = random_ids(50)
    answer = generate(session, prompts, first, 6)
    prefilled.clear()
    second = [*first, *answer, *random_ids(9, seed=1)]
    generate(session, prompts, second, 1)
    # The last token of the answer was never run.
    assert prefilled == [1 + 9]


def test_a_reused_prefix_gives_the_same_tokens(session):
    prompts = PromptCache(session)
    shared = random_ids(30)
    for seed in range(6):
        prompt = [*shared[: 30 - 4 * seed], *random_ids(5 + seed, seed)]
        assert generate(session, prompts, prompt, 12) == token_ids(
            generate_step(session, prompt, stop_token_ids=(), max_new_tokens=12)
        )


def test_a_caller_who_changes_his_mind_loses_nothing(session, prefilled):
    prompts = PromptCache(session)
    first, system = random_ids(60), random_ids(60)[:25]
    generate(session, prompts, first, 5)
    other = [*system, *random_ids(8, seed=2)]
    generate(session, prompts, other, 5)
    prefilled.clear()
    generate(session, prompts, [*first, 7, 8], 1)  # the first conversation is still there
    generate(session, prompts, [*other, 7, 8], 1)
    assert prefilled == [2, 2]


def test_an_answer_that_was_broken_off_leaves_a_sound_cache(session):
    prompts, prompt = PromptCache(session), random_ids(20)
    cache = prompts.take(prompt)
    steps = generate_step(session, prompt, stop_token_ids=(), max_new_tokens=50, cache=cache, prompt_lookup=True)
    given = [next(steps).token_id for _ in range(7)]
    steps.close()
    prompts.give_back(cache)
    again = [*prompt, *given]
    assert generate(session, prompts, again, 10) == token_ids(
        generate_step(session, again, stop_token_ids=(), max_new_tokens=10)
    )


def test_the_same_prompt_runs_its_last_token_again(session, prefilled):
    prompts, prompt = PromptCache(session), random_ids(20)
    first = generate(session, prompts, prompt, 1)
    prefilled.clear()
    assert generate(session, prompts, prompt, 1) == first
    assert prefilled == [2]  # together with the one before it


def test_of_many_sequences_the_last_used_are_kept(session):
    prompts = PromptCache(session, max_caches=2)
    for seed in range(4):
        generate(session, prompts, random_ids(10, seed), 2)
    assert prompts.nbytes == 2 * KVCache(session.shape, 12).nbytes
    assert prompts.take(random_ids(10, 1)).length == 0
    assert prompts.take(random_ids(10, 3)).length == 9  # taken over
    assert prompts.nbytes == KVCache(session.shape, 12).nbytes
    prompts.clear()
    assert prompts.nbytes == 0


def test_a_cache_of_one_session_goes_on_in_another_of_the_bundle(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    first, second = (DecoderSession(bundle, name, threads=1) for name in ("int8", "fp32"))
    ids = random_ids(40)
    cache = first.new_cache()
    first.forward(ids[:30], cache)
    found = second.forward(ids[30:], cache)
    fresh = second.new_cache()
    expected = second.forward(ids, fresh)
    assert cache.token_ids == fresh.token_ids == ids
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_a_prompt_may_be_run_by_another_precision_over_the_same_cache(tiny_bundle):
    """The tokens are those of a prefill by one session and decodes by the other."""
    model = LanguageModel.load(tiny_bundle, precision="int8", prefill_precision="fp32")
    fp32 = DecoderSession(Bundle.open(tiny_bundle), "fp32")
    prompt_ids = model.tokenizer.encode("the cat and the mouse")
    cache = fp32.new_cache()
    token_ids = [int(fp32.forward(prompt_ids, cache)[0].argmax())]
    while len(token_ids) < 12:
        token_ids.append(int(model.session.forward(token_ids[-1:], cache)[0].argmax()))
    options = SamplingOptions(temperature=0, max_new_tokens=12, stop_token_ids=[])
    assert model.generate(prompt_ids, options).token_ids == token_ids
    same = LanguageModel.load(tiny_bundle, precision="fp32", prefill_precision="fp32")
    assert same.generate(prompt_ids, options).new_tokens == 12
