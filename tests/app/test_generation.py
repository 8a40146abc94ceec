"""Laws of the generator behind the page."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from app.generation import Progress, Request, stream
from app.models import Models
from runtime.bundle import Bundle
from runtime.errors import OptionError, PromptError
from runtime.sampling.options import SamplingOptions

REQUEST = Request("The mouse", "int8", SamplingOptions(seed=1, max_new_tokens=20))


def continue_(models: Models, request: Request, *, update_seconds: float = 0) -> Iterator[Progress]:
    return stream(models, request, threading.Event(), update_seconds=update_seconds)


def with_options(**options) -> Request:
    return replace(REQUEST, sampling=replace(REQUEST.sampling, **options))


def every_update(models: Models, request: Request) -> list[Progress]:
    return list(continue_(models, request))


def test_text_only_grows_and_the_end_is_the_runtimes_own_text(models: Models) -> None:
    updates = every_update(models, REQUEST)
    texts = [update.generation.text for update in updates]
    expected = models.get("int8").generate("The mouse", REQUEST.sampling)
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert texts[-1] == expected.text
    assert updates[-1].generation.token_ids == expected.token_ids


def test_only_the_last_update_has_a_finish_reason(models: Models) -> None:
    reasons = [update.finish_reason for update in every_update(models, REQUEST)]
    assert reasons == [None] * 19 + ["length"]


def test_updates_are_no_faster_than_asked_for(models: Models) -> None:
    updates = list(continue_(models, REQUEST, update_seconds=3600))
    assert [update.generation.new_tokens for update in updates] == [1, 20]


def test_times_are_of_the_model_and_not_of_the_reader(models: Models, forward_calls) -> None:
    forward_calls.delay_seconds = 0.01
    updates = []
    for update in continue_(models, with_options(max_new_tokens=3)):
        updates.append(update)
        threading.Event().wait(0.2)  # a slow browser
    assert 0.01 <= updates[0].generation.time_to_first_token_seconds < 0.2
    assert 0.02 <= updates[-1].generation.decode_seconds < 0.2


def test_stop_ends_the_computation_before_the_next_token(models: Models, forward_calls) -> None:
    stop = threading.Event()
    updates = stream(models, REQUEST, stop, update_seconds=3600)
    first = next(updates)
    stop.set()
    (last,) = updates
    assert last.finish_reason == last.generation.finish_reason == "cancelled"
    assert last.generation.token_ids == first.generation.token_ids
    assert forward_calls.count == 1


def test_who_stops_while_waiting_costs_nothing(models: Models, forward_calls) -> None:
    stop = threading.Event()
    stop.set()
    (last,) = stream(models, REQUEST, stop)
    assert (last.finish_reason, last.generation.new_tokens) == ("cancelled", 0)
    assert forward_calls.count == 0


def test_closing_ends_the_computation(models: Models, forward_calls) -> None:
    updates = continue_(models, REQUEST)
    for _ in range(3):
        next(updates)
    updates.close()
    assert forward_calls.count == 3


def test_nothing_is_computed_ahead_of_the_reader(models: Models, forward_calls) -> None:
    updates = continue_(models, REQUEST)
    for expected in (1, 2, 3):
        next(updates)
        assert forward_calls.count == expected


def test_an_abandoned_generation_does_not_block_the_next(models: Models) -> None:
    abandoned = continue_(models, REQUEST)
    next(abandoned)
    assert every_update(models, REQUEST)[-1].finish_reason == "length"


def test_two_interleaved_generations_are_each_as_if_alone(models: Models) -> None:
    alone = [update.generation.text for update in every_update(models, REQUEST)]
    first, second = (continue_(models, REQUEST) for _ in range(2))
    pairs = [(a.generation.text, b.generation.text) for a, b in zip(first, second, strict=True)]
    assert pairs == [(text, text) for text in alone]


def test_max_new_tokens_is_cut_to_the_room_left(models: Models) -> None:
    context = models.bundle.shape.max_position_embeddings
    last = every_update(models, with_options(max_new_tokens=context * 10))[-1]
    assert last.limit_tokens == last.generation.new_tokens == context - last.generation.prompt_tokens
    assert last.finish_reason == "length"


def test_a_prompt_that_fills_the_context_is_refused(models: Models) -> None:
    with pytest.raises(PromptError, match="shorten"):
        every_update(models, replace(REQUEST, prompt="mouse " * 500))


def test_an_empty_prompt_starts_from_bos(models: Models) -> None:
    updates = every_update(models, replace(REQUEST, prompt=""))
    assert updates[-1].generation.prompt_tokens == 1


def test_stop_strings_end_the_text(models: Models) -> None:
    text = every_update(models, REQUEST)[-1].generation.text
    stop = text[len(text) // 2]
    last = every_update(models, with_options(stop_strings=(stop,)))[-1]
    assert last.generation.text == text[: text.index(stop)]
    assert last.finish_reason == "stop"


def test_each_precision_is_opened_once(models: Models) -> None:
    assert models.get("fp32") is models.get("fp32")
    assert models.get("fp32").session.precision == "fp32"
    assert models.get("int8").session.precision == "int8"


def test_an_unknown_precision_names_those_that_are_there(models: Models) -> None:
    with pytest.raises(OptionError, match="int8"):
        models.get("q2")


def test_threads_asking_at_once_share_one_model(models: Models) -> None:
    found = []
    threads = [threading.Thread(target=lambda: found.append(models.get("fp32"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


def test_a_precisions_size_includes_its_external_data(bundle_folder, tmp_path) -> None:
    shutil.copytree(bundle_folder, tmp_path / "bundle")
    models = Models(Bundle.open(tmp_path / "bundle"))
    before = {name: models.bundle.file_bytes(name) for name in ("fp32", "int8")}
    (tmp_path / "bundle" / "onnx" / "model.onnx_data").write_bytes(bytes(1000))
    assert models.bundle.file_bytes("fp32") == before["fp32"] + 1000
    assert models.bundle.file_bytes("int8") == before["int8"]
