"""Sessions whose KV cache is of int8: a quarter of the memory, and otherwise like any other."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from runtime import Bundle, ChatSession, DecoderSession, LanguageModel, SamplingOptions
from runtime.engine.kv_cache import KVCache
from runtime.engine.prompt_cache import PromptCache
from runtime.errors import OptionError
from runtime.generation.generate import Request, generate_batch, generate_step
from tests.runtime.options import token_ids


@pytest.fixture(scope="module")
def bundle(int8_cache_bundle):
    return Bundle.open(int8_cache_bundle)


@pytest.fixture(scope="module")
def session(bundle):
    return DecoderSession(bundle, "int8-kv8", threads=1)


def test_it_takes_a_quarter_of_the_memory(bundle, session):
    floats = DecoderSession(bundle, "int8", threads=1)
    assert 4 * session.new_cache(100).nbytes == floats.new_cache(100).nbytes
    assert 4 * session.cache_bytes_per_token == floats.cache_bytes_per_token
    assert session.new_cache(64).nbytes == 64 * session.cache_bytes_per_token


def test_growing_copying_and_trimming_keep_the_dtype_and_the_rows(bundle, session):
    ids = list(range(3, 103))
    whole = session.forward(ids, session.new_cache(), num_logits_to_keep=0)
    cache = session.new_cache(1)
    for token_id in ids[:70]:  # grows
        session.forward([token_id], cache)
    copied = cache.copy(65)
    assert copied.dtype is np.int8
    assert {buffer.dtype.name for buffer in copied.buffers} == {"int8"}
    np.testing.assert_array_equal(session.forward(ids[65:], copied)[0], whole[-1])
    cache.trim(65)
    np.testing.assert_array_equal(session.forward(ids[65:], cache)[0], whole[-1])


def test_the_plain_twin_that_copies_past_into_present_agrees(bundle, session):
    plain = DecoderSession(bundle, "int8-kv8", threads=1, in_place=False)
    ids = list(range(3, 60))
    fast = token_ids(generate_step(session, ids, stop_token_ids=(), max_new_tokens=40))
    assert token_ids(generate_step(plain, ids, stop_token_ids=(), max_new_tokens=40)) == fast


def test_rows_of_a_batch_are_what_they_are_alone(session):
    prompts = [[5, 6, 7], list(range(3, 40)), [9]]
    alone = [token_ids(generate_step(session, prompt, stop_token_ids=(), max_new_tokens=30)) for prompt in prompts]
    together = generate_batch(session, [Request(prompt, max_new_tokens=30) for prompt in prompts])
    assert {row.index: row.new_ids for row in together} == dict(enumerate(alone))


def test_a_reused_prefix_changes_no_bit(session):
    prompts = PromptCache(session)
    first, second = list(range(3, 50)), [*range(3, 40), *range(60, 80)]
    cache = prompts.take(first)
    token_ids(generate_step(session, first, stop_token_ids=(), max_new_tokens=20, cache=cache))
    prompts.give_back(cache)
    cache = prompts.take(second)
    assert cache.length == 37
    reused = session.forward(second[cache.length :], cache)
    np.testing.assert_array_equal(reused, session.forward(second, session.new_cache()))


def test_a_prompt_run_by_q8_over_the_same_cache(bundle, int8_cache_bundle):
    model = LanguageModel.load(int8_cache_bundle, precision="int8-kv8", prefill_precision="q8-kv8", threads=1)
    generation = model.generate("Once upon a time", SamplingOptions(temperature=0, max_new_tokens=20))
    session, q8 = (DecoderSession(bundle, name, threads=1) for name in ("int8-kv8", "q8-kv8"))
    prompt, cache = model.tokenizer.encode_prompt("Once upon a time"), session.new_cache()
    expected = [int(q8.forward(prompt, cache)[0].argmax())]
    while len(expected) < 20:
        expected.append(int(session.forward(expected[-1:], cache)[0].argmax()))
    assert generation.token_ids == expected


@pytest.mark.parametrize(("precision", "prefill_precision"), [("int8", "q8-kv8"), ("int8-kv8", "q8")])
def test_two_precisions_with_caches_of_different_dtypes_are_refused(precision, prefill_precision, int8_cache_bundle):
    with pytest.raises(OptionError, match=f"{prefill_precision} has a KV cache of .* cannot go on with one of"):
        LanguageModel.load(int8_cache_bundle, precision=precision, prefill_precision=prefill_precision)


def test_another_sessions_cache_is_refused_before_anything_runs(session):
    cache = KVCache(session.shape)
    for ids in ([1], [1, 2]):
        with pytest.raises(OptionError, match="int8-kv8 has a KV cache of int8 and cannot go on with one of float32"):
            session.forward(ids, cache)
    assert cache.length == 0


def test_a_chat_with_prompt_lookup_goes_on_in_the_same_cache(int8_cache_bundle, tmp_path):
    folder = shutil.copytree(int8_cache_bundle, tmp_path / "bundle")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}", encoding="utf-8")
    texts = []
    for prompt_lookup in (False, True):
        model = LanguageModel.load(folder, precision="int8-kv8", prompt_lookup=prompt_lookup, threads=1)
        chat, sampling = ChatSession(model), SamplingOptions(temperature=0, max_new_tokens=30)
        texts.append(["".join(chunk.text for chunk in chat.ask(text, sampling)) for text in ("Tim saw", " a cat")])
        assert chat.prefilled_tokens < 10
    assert texts[0] == texts[1]
