"""Laws of streams over thousands of random cases: ids of every kind, stop strings, limits, cancellation.

A fake session draws what the case says, so that a case costs microseconds.
"""

from __future__ import annotations

import random

import pytest

from runtime import SamplingOptions
from runtime.engine.scheduler import Scheduler
from runtime.engine.shared_scheduler import SharedScheduler
from runtime.generation.text_request import TextRequest
from runtime.generation.text_stream import TextStream
from runtime.text.detokenizer import REPLACEMENT
from tests.runtime.engine.fake_session import FakeSession

CASES = 3400  # for each of three tokenizers
CONTEXT = 512
TEXTS = ["Once upon a time. 日本語 😀👩‍👩‍👧 café", "  two  spaces \n\n a line \t", "aaab aab ab a b", "é😀" * 4]


@pytest.fixture(params=["tiny", "stories260k", "smollm2"])
def tokenizer(request, tokenizers):
    return tokenizers(request.param)


def random_ids(tokenizer, randomness, vocab_size):
    """Pieces of real text, bytes, special tokens and tokens at random, those beyond the vocabulary too."""
    ids = []
    for _ in range(randomness.randint(0, 5)):
        kind = randomness.randrange(4)
        if kind == 0:
            text = randomness.choice(TEXTS)
            start = randomness.randrange(len(text))
            ids += tokenizer.encode(text[start : start + 7], add_special_tokens=False)
        elif kind == 1 and tokenizer.byte_tokens:
            ids.append(randomness.choice(sorted(tokenizer.byte_tokens)))
        else:
            ids.append(randomness.randrange(3 if kind == 2 else vocab_size))
    return ids


def stream_of(tokenizer, drawn, vocab_size, *, prompt_ids, is_cancelled=None, **options):
    """A stream in which these ids are drawn, and how many of them were."""
    counted = []

    def next_token(held):
        counted.append(drawn[len(held) - len(prompt_ids)])
        return counted[-1]

    session = FakeSession(next_token, vocab_size=vocab_size, context=CONTEXT, chunk_tokens=CONTEXT)

    def make_request(on_delta):
        return TextRequest(
            session.shape,
            tokenizer,
            prompt_ids,
            SamplingOptions(temperature=0, **options),
            stop_token_ids=frozenset(),
            vocabulary=lambda: None,
            on_delta=on_delta,
        )

    scheduler = Scheduler(session, max_pause_steps=1, cache_bytes=10**6)
    stream = TextStream(make_request, SharedScheduler(scheduler), is_cancelled=is_cancelled)
    deltas = list(stream.deltas())
    assert not scheduler.has_work
    return deltas, counted


def rest_of(tokenizer, prompt_ids, ids):
    """What the ids add to the text of the prompt; None where decoding both at once changes the prompt's own text."""
    before, whole = tokenizer.decode(prompt_ids), tokenizer.decode(prompt_ids + ids)
    return whole[len(before) :] if whole.startswith(before) and not before.endswith(REPLACEMENT) else None


def test_over_random_cases_the_laws_of_streams_hold(tokenizer):
    randomness, checked = random.Random(7), {"stop": 0, "length": 0, "cancelled": 0}
    size = 49_152 if len(tokenizer.encode("Once upon a time", add_special_tokens=False)) == 4 else 320
    while sum(checked.values()) < CASES:
        prompt_ids = random_ids(tokenizer, randomness, size) or [5]
        ids = random_ids(tokenizer, randomness, size) or [6]
        expected = rest_of(tokenizer, prompt_ids, ids)
        if expected is None:
            continue
        stops = random_stops(expected, randomness)
        cancelled_at = randomness.randint(0, 2 * len(ids))
        asked = iter(range(10**6))
        chunks, drawn = stream_of(
            tokenizer,
            ids,
            size,
            prompt_ids=prompt_ids,
            max_new_tokens=len(ids),
            stop_strings=stops,
            is_cancelled=lambda asked=asked, at=cancelled_at: next(asked) == at,
        )
        text, reason = "".join(chunk.text for chunk in chunks), chunks[-1].finish_reason
        checked[reason] += 1
        assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert [chunk.token_id for chunk in chunks if chunk.token_id is not None] == drawn
        if not tokenizer.special_tokens.keys() & set(drawn):  # stop strings see them, as in transformers
            assert not any(stop in text for stop in stops), (stops, text)  # nothing leaks, not even split over pieces
        if reason == "length":
            assert (text, drawn) == (expected, ids)
        elif reason == "stop":
            whole = rest_of(tokenizer, prompt_ids, drawn)
            assert whole is None or whole.startswith(text)
            assert any(stop in expected for stop in stops) or whole != expected
        else:
            assert len(drawn) == cancelled_at
            whole = rest_of(tokenizer, prompt_ids, drawn)
            assert whole is None or text == whole
    assert all(count > CASES / 20 for count in checked.values()), checked


def random_stops(text, randomness):
    """Pieces of the text to come, of it and what does not come, and strings that do not."""
    stops = []
    for _ in range(randomness.choice((0, 0, 1, 1, 2))):
        start = randomness.randrange(len(text)) if text else 0
        piece = text[start : start + randomness.randint(1, 4)]
        stop = randomness.choice((piece, piece + "never", "never", text + "longer than the output"))
        stops += [stop] if stop and REPLACEMENT not in stop else []
    return stops
