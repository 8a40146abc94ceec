"""A stream ends at any token when it is told to, from any thread, and threads that share a model do not disturb it."""

from __future__ import annotations

import threading

import pytest

from runtime import LanguageModel, SamplingOptions, TextDelta
from runtime.engine.chunks import ChunkRule
from tests.runtime.options import endless


@pytest.mark.parametrize("after", [0, 1, 5, 19])
def test_a_stream_ends_at_the_token_at_which_it_is_cancelled(after, tiny_model: LanguageModel, calls):
    cancelled = threading.Event()
    whole = tiny_model.generate("the mouse", endless(max_new_tokens=20))
    calls.clear()
    stream = tiny_model.stream("the mouse", endless(max_new_tokens=20), is_cancelled=cancelled.is_set)
    chunks = [next(stream) for _ in range(after)]
    cancelled.set()
    *rest, last = stream
    assert rest == []
    assert (last.token_id, last.finish_reason) == (None, "cancelled")
    assert [chunk.token_id for chunk in chunks] == whole.token_ids[:after]
    assert len(calls) == after
    prompt_ids = tiny_model.tokenizer.encode("the mouse")
    text = "".join(chunk.text for chunk in [*chunks, last])
    assert "the mouse" + text == tiny_model.tokenizer.decode(prompt_ids + whole.token_ids[:after])


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_long_prompt_stops_between_its_chunks_and_what_was_computed_is_kept(after, tiny_model, calls, monkeypatch):
    monkeypatch.setattr(tiny_model.session, "chunks", ChunkRule(16, query_block=64))
    prompt_ids, cache = list(range(3, 73)), tiny_model.session.new_cache()
    options = endless(max_new_tokens=20)
    stream = tiny_model.start(prompt_ids, options, is_cancelled=lambda: len(calls) == after, cache=cache)
    (last,) = stream.deltas()
    assert (last.text, last.finish_reason, len(calls)) == ("", "cancelled", after)
    assert cache.token_ids == prompt_ids[: 16 * after]
    calls.clear()
    resumed = tiny_model.start(prompt_ids, options, cache=cache)
    ids = [delta.token_id for delta in resumed.deltas()]
    assert resumed.cached_tokens == 16 * after
    assert ids == tiny_model.generate(prompt_ids, options).token_ids


def test_threads_get_their_tokens_in_turn(tiny_model):
    """One whose prompt is long waits for nobody's whole text."""
    order, both = [], threading.Barrier(2)

    def run(name, prompt_tokens, new_tokens):
        both.wait(30)
        order.extend(name for _ in tiny_model.stream([3] * prompt_tokens, endless(max_new_tokens=new_tokens)))

    threads = [threading.Thread(target=run, args=case) for case in (("a", 5, 180), ("b", 120, 60))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(order) == ["a"] * 180 + ["b"] * 60
    turns = "".join(order)
    shared = turns[max(map(turns.index, "ab")) : min(map(turns.rindex, "ab"))]
    assert "ab" * 5 in shared  # how long both run depends on when their threads began
    assert "aaaa" not in shared
    assert "bbbb" not in shared


def recorded(lengths):
    def process(token_ids, logits):
        lengths.append(list(token_ids))
        return logits

    return process


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.5},
        {"frequency_penalty": 0.7},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 5, "stop_token_ids": list(range(160))},
        {"regex": "[a-f]{3,9}"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_processors_see_the_whole_prompt_however_it_is_cut(options, tiny_bundle, monkeypatch):
    if "regex" in options:
        pytest.importorskip("llguidance")
    model = LanguageModel.load(tiny_bundle, precision="fp32", threads=1, cached_prompts=0)
    prompt, found = list(range(3, 73)), []
    for chunk_tokens in (16, 256):
        monkeypatch.setattr(model.session, "chunks", ChunkRule(chunk_tokens, query_block=64))
        seen: list[list[int]] = []
        sampling = SamplingOptions(**({"temperature": 0, "max_new_tokens": 12, "stop_token_ids": []} | options))
        result = model.generate(prompt, sampling, logits_processors=[recorded(seen)])
        assert all(ids[: len(prompt)] == prompt for ids in seen)
        found.append((result.token_ids, result.finish_reason, seen))
    assert found[0] == found[1]


def test_what_was_held_back_for_a_stop_string_comes_when_it_is_cancelled(tiny_model: LanguageModel):
    whole = tiny_model.generate("the mouse", endless(max_new_tokens=8)).text
    stops = [whole + " and what never comes"]
    asked = iter(range(100))
    options = endless(max_new_tokens=20, stop_strings=stops)
    result = tiny_model.generate("the mouse", options, is_cancelled=lambda: next(asked) == 8)
    assert (result.text, result.finish_reason) == (whole, "cancelled")


def test_another_thread_may_cancel(tiny_model: LanguageModel):
    cancelled, begun, chunks = threading.Event(), threading.Event(), []

    def read() -> None:
        for chunk in tiny_model.stream("the", endless(max_new_tokens=150), is_cancelled=cancelled.is_set):
            chunks.append(chunk)
            begun.set()
            if len(chunks) == 3:
                cancelled.wait(30)

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(30)
    cancelled.set()
    reader.join(30)
    assert chunks[-1].finish_reason == "cancelled"
    assert len(chunks) < 150


def test_a_cancelled_chunk_is_one_of_the_kinds():
    assert TextDelta("", None, "cancelled").finish_reason == "cancelled"


def test_the_same_seed_gives_the_same_text_whatever_else_runs(tiny_bundle):
    model = LanguageModel.load(tiny_bundle, precision="fp32", threads=1)
    sampling = [SamplingOptions(temperature=1.2, seed=seed, max_new_tokens=25, stop_token_ids=()) for seed in range(6)]
    alone = [model.generate("the", options).token_ids for options in sampling]
    found: dict[int, list[int]] = {}

    def run(seed: int) -> None:
        found[seed] = model.generate("the", sampling[seed]).token_ids

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(6)] == alone
    streams = [model.stream("the", options) for options in sampling]
    interleaved = list(zip(*streams, strict=True))
    assert [[chunk.token_id for chunk in chunks] for chunks in zip(*interleaved, strict=True)] == alone
