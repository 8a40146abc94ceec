"""A LanguageModel does not compute again what a prompt begins with like the one before, and no text depends on it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from runtime import Bundle, DecoderSession, LanguageModel, SamplingOptions
from runtime.errors import OptionError
from runtime.text.tokenizer import Tokenizer
from tests.runtime.options import endless

CHUNK = 16


@pytest.fixture
def open_model(request):
    def make(name, precision, *, prefill_precision=None, batch_invariant=False, cached_prompts=1):
        bundle = Bundle.open(request.getfixturevalue(f"{name}_bundle"))
        options = {"threads": 1, "chunk_tokens": CHUNK, "batch_invariant": batch_invariant}
        prefill = DecoderSession(bundle, prefill_precision, **options) if prefill_precision else None
        return LanguageModel(
            bundle,
            DecoderSession(bundle, precision, **options),
            Tokenizer(bundle),
            prefill_session=prefill,
            cached_prompts=cached_prompts,
        )

    return make


def random_ids(count, seed=0):
    return np.random.default_rng(seed).integers(3, 320, count).tolist()


CONFIGURATIONS = [
    ("stories260k", "fp32", None, False),
    ("stories260k", "int8", None, False),
    ("stories260k", "q8", None, False),
    ("stories260k", "int8", "q8", False),
    ("stories260k", "int8", None, True),
    ("int8_cache", "int8-kv8", None, False),
    ("int8_cache", "int8-kv8", "q8-kv8", False),
]


@pytest.mark.parametrize(("name", "precision", "prefill_precision", "batch_invariant"), CONFIGURATIONS)
def test_a_text_is_the_same_whatever_was_computed_before_it(
    name, precision, prefill_precision, batch_invariant, open_model
):
    """To the bit, which log-probabilities show."""
    options = {"prefill_precision": prefill_precision, "batch_invariant": batch_invariant}
    caching, fresh = (open_model(name, precision, cached_prompts=n, **options) for n in (1, 0))
    sampling = SamplingOptions(temperature=1, top_p=1, max_new_tokens=40, seed=3, top_logprobs=1, stop_token_ids=())
    system = random_ids(70)
    answer: list[int] = []
    reused = 0
    for prompt in (
        [*system, *random_ids(9, 1)],
        [*system, *random_ids(20, 2)],
        [*system, *random_ids(20, 2)],  # the same again
        [*system[:33], *random_ids(1, 3)],
        [*system, *answer, 5, 6],
        system[:17],
    ):
        found, expected = caching.generate(prompt, sampling), fresh.generate(prompt, sampling)
        assert found.token_ids == expected.token_ids
        assert found.logprobs == expected.logprobs
        reused += found.cached_tokens
        assert expected.cached_tokens == 0
    assert reused >= 2 * 64 + 2 * 16


def test_elsewhere_whole_chunks_of_the_prompt_are_reused_and_nothing_of_the_answer(open_model, calls):
    model, sampling = open_model("tiny", "int8"), endless(max_new_tokens=8)
    prompt = random_ids(50)
    first = model.generate(prompt, sampling)
    calls.clear()
    again = model.generate([*prompt, *first.token_ids, 7], sampling)
    assert again.cached_tokens == 48
    assert calls[0] == 50 + 8 + 1 - 48


def test_in_an_exact_session_all_is_reused_but_the_last_token(open_model, calls):
    model, sampling = open_model("tiny", "int8", batch_invariant=True), endless(max_new_tokens=8)
    prompt = random_ids(50)
    first = model.generate(prompt, sampling)
    assert model.generate([*prompt, *first.token_ids, 7], sampling).cached_tokens == 50 + 7
    assert model.generate(prompt, sampling).cached_tokens == 49


def test_streams_that_were_left_keep_what_they_computed(open_model):
    model = open_model("tiny", "int8", batch_invariant=True)
    prompt = random_ids(40)
    stream = model.stream(prompt, endless(max_new_tokens=20))
    given = [next(stream).token_id for _ in range(5)]
    stream.close()
    assert model.generate([*prompt, *given, 9], endless(max_new_tokens=1)).cached_tokens == 40 + 4


def test_a_stream_that_never_began_costs_nothing(open_model):
    model = open_model("tiny", "int8", batch_invariant=True)
    prompt = random_ids(40)
    model.generate(prompt, endless(max_new_tokens=2))
    model.stream(random_ids(30, 5))
    assert model.generate(prompt, endless(max_new_tokens=1)).cached_tokens == 39


def test_without_a_place_nothing_is_kept(open_model):
    model = open_model("tiny", "int8", batch_invariant=True, cached_prompts=0)
    prompt = random_ids(40)
    assert [model.generate(prompt, endless(max_new_tokens=2)).cached_tokens for _ in range(2)] == [0, 0]


def test_threads_that_share_prompts_get_the_texts_that_they_get_alone(open_model):
    model, fresh = open_model("tiny", "int8", cached_prompts=2), open_model("tiny", "int8", cached_prompts=0)
    system = random_ids(60)
    prompts = [[*system, *random_ids(3 + n, n)] for n in range(4)]
    sampling = SamplingOptions(temperature=1, max_new_tokens=10, seed=1, stop_token_ids=())
    expected = [fresh.generate(prompt, sampling).token_ids for prompt in prompts]
    found = [[] for _ in prompts]

    def run(number):
        found[number] = [model.generate(prompts[number], sampling).token_ids for _ in range(5)]

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [[ids] * 5 for ids in expected]


def test_a_stream_may_be_closed_while_its_own_thread_runs_a_step(open_model, monkeypatch):
    """So the garbage collector does, at any moment."""
    model = open_model("tiny", "int8", batch_invariant=True, cached_prompts=2)
    left, forward = model.stream(random_ids(40), endless(max_new_tokens=20)), model.session.forward
    next(left)

    def closing(*args, **options):
        left.close()
        return forward(*args, **options)

    monkeypatch.setattr(model.session, "forward", closing)
    done = []
    run = threading.Thread(target=lambda: done.append(model.generate([5], endless(max_new_tokens=3))), daemon=True)
    run.start()
    run.join(30)
    assert len(done) == 1  # and not a thread that waits for itself
    assert model.generate(random_ids(40), endless(max_new_tokens=1)).cached_tokens == 39


def test_a_stream_is_read_once(open_model):
    model = open_model("tiny", "int8", batch_invariant=True, cached_prompts=3)
    stream = model.start(random_ids(20), endless(max_new_tokens=2))
    list(stream.deltas())
    with pytest.raises(RuntimeError):
        list(stream.deltas())


def test_fewer_places_than_none_are_refused(tiny_bundle):
    with pytest.raises(OptionError, match="cannot keep -1 caches"):
        LanguageModel.load(tiny_bundle, cached_prompts=-1)


def test_what_cannot_be_batch_invariant_says_so(stories260k_bundle):
    with pytest.raises(OptionError, match="q8 cannot be batch-invariant"):
        LanguageModel.load(stories260k_bundle, precision="q8", batch_invariant=True)
    with pytest.raises(OptionError, match="a batch-invariant int8 runs its prompts itself, not in q8"):
        LanguageModel.load(stories260k_bundle, precision="int8", prefill_precision="q8", batch_invariant=True)
