"""Many streams of one model, from many threads: each says what it says alone."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from runtime import LanguageModel, SamplingOptions


@pytest.fixture(scope="module", params=["int8", "int8-kv8", "fp32", "q8"])
def model(request):
    name = "int8_cache_bundle" if request.param == "int8-kv8" else "stories260k_bundle"
    return LanguageModel.load(request.getfixturevalue(name), precision=request.param, threads=1, cached_prompts=2)


def random_ids(count, seed):
    return np.random.default_rng(seed).integers(3, 500, count).tolist()


def test_streams_say_what_they_say_alone_whoever_joins_and_leaves(model):
    prompts = [random_ids(length, length) for length in (3, 40, 300, 9, 17, 120, 5, 64)]
    options = [
        SamplingOptions(
            temperature=number % 2, seed=number, max_new_tokens=20 + 9 * number, stop_token_ids=(), top_logprobs=0
        )
        for number in range(len(prompts))
    ]
    alone = [model.generate(*case) for case in zip(prompts, options, strict=True)]
    found, start = {}, threading.Barrier(len(prompts))

    def run(number):
        start.wait(30)
        time.sleep(0.01 * (number % 4))
        found[number] = model.generate(prompts[number], options[number])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [found[number].token_ids for number in range(len(prompts))] == [result.token_ids for result in alone]
    assert [found[number].logprobs for number in range(len(prompts))] == [result.logprobs for result in alone]


def test_streams_left_in_the_middle_free_what_they_held(model):
    options = SamplingOptions(temperature=0, max_new_tokens=100, stop_token_ids=())

    def leave(number):
        stream = model.stream(random_ids(30, number), options)
        for _ in range(number):
            next(stream)
        stream.close()

    threads = [threading.Thread(target=leave, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with model._scheduler.turn() as scheduler:
        assert (scheduler.running, scheduler.waiting) == (0, 0)
        scheduler._prompts.clear()
        assert scheduler.cache_bytes == 0


def test_a_prompt_shares_the_prefix_of_one_that_still_runs(model):
    system = random_ids(300, 0)
    options = SamplingOptions(temperature=0, max_new_tokens=30, stop_token_ids=())
    alone = [model.generate([*system, number], options).token_ids for number in (5, 6)]
    with model._scheduler.turn() as scheduler:
        scheduler._prompts.clear()
    first, second = (model.start([*system, number], options) for number in (5, 6))
    streams = first.deltas(), second.deltas()
    next(streams[0])
    found = [[delta.token_id for delta in stream] for stream in reversed(streams)]
    expected = {"int8-kv8": 300, "q8": 256}.get(model.session.precision, 288)
    assert second.cached_tokens == expected
    assert found == [alone[1], alone[0][1:]]
