"""What the page shows, and that its controls are the runtime's."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from dataclasses import fields, replace

import pytest

from app import render
from app.models import Models
from app.page import build_page, continue_text, split_stop_strings
from runtime.engine.sequence import DEFAULT_MAX_NEW_TOKENS
from runtime.sampling.options import DefaultLength, SamplingOptions

HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(1)> & \"quoted\" 'single' ${1+1} {{value}}"


def generate_event(models: Models, precision: str = "int8"):
    """What the page sends when a generation runs: its inputs, and its place in the queue."""
    page = build_page(models, name="tiny", precision=precision)
    (found,) = [fn for fn in page.fns.values() if fn.api_name == "generate"]
    return found


@pytest.fixture(autouse=True)
def event_loops_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Gradio makes event loops for a page's locks and forgets to close them, of which Python would complain."""
    loops = []
    new_event_loop = asyncio.new_event_loop

    def kept() -> asyncio.AbstractEventLoop:
        loops.append(new_event_loop())
        return loops[-1]

    monkeypatch.setattr(asyncio, "new_event_loop", kept)
    yield
    asyncio.set_event_loop(None)
    for loop in loops:
        loop.close()


def last_update(models: Models, *, prompt: str = "The mouse", tokens: int = 5, seed: str = "", **sampling):
    return list(continue_text(models, prompt, "int8", tokens, "", seed, sampling, threading.Event()))[-1]


def test_controls_begin_with_the_runtimes_defaults(models: Models) -> None:
    fn = generate_event(models)
    shown = {name: component.value for name, component in zip(fn.input_keyword_names, fn.inputs[6:], strict=True)}
    numbers = {option.name for option in fields(SamplingOptions) if option.metadata["kind"] is not None}
    assert shown == {name: getattr(SamplingOptions(), name) for name in shown}
    assert set(shown) == numbers - {"seed", "max_new_tokens", "min_new_tokens", "top_logprobs"}
    assert fn.inputs[4].value == ""
    context = models.bundle.shape.max_position_embeddings
    assert fn.inputs[2].value == min(DEFAULT_MAX_NEW_TOKENS, context - 1)
    assert fn.inputs[2].maximum == context - 1


def test_controls_begin_with_the_models_own_defaults_within_range(models: Models) -> None:
    stored = {"temperature": 3.5, "top_k": 20, "repetition_penalty": 0.5, "max_new_tokens": DefaultLength(5)}
    models.bundle = replace(models.bundle, generation_defaults=stored)
    fn = generate_event(models)
    shown = {name: component.value for name, component in zip(fn.input_keyword_names, fn.inputs[6:], strict=True)}
    assert (shown["temperature"], shown["top_k"], shown["repetition_penalty"]) == (2, 20, 1)
    assert shown["top_p"] == SamplingOptions().top_p
    assert fn.inputs[2].value == 5


def test_what_has_no_slider_is_the_models_own(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    models.bundle = replace(models.bundle, generation_defaults={"min_new_tokens": DefaultLength(9), "top_k": 20})
    asked = []
    monkeypatch.setattr("app.page.stream", lambda _, request, __: asked.append(request.sampling) or iter(()))
    list(continue_text(models, "The mouse", "int8", 5, "", "1", {"top_k": 3}, threading.Event()))
    assert asked == [SamplingOptions(min_new_tokens=9, max_new_tokens=5, seed=1, top_k=3)]


def test_every_value_that_a_slider_offers_is_one_that_the_runtime_takes(models: Models) -> None:
    fn = generate_event(models)
    for name, component in zip(fn.input_keyword_names, fn.inputs[6:], strict=True):
        SamplingOptions(**{name: component.minimum})
        SamplingOptions(**{name: component.maximum})


def test_the_precisions_are_the_bundles_with_their_sizes(models: Models) -> None:
    dropdown = generate_event(models, "fp32").inputs[1]
    assert [value for _, value in dropdown.choices] == list(models.bundle.precisions)
    assert all(label.endswith(" MB") for label, _ in dropdown.choices)
    assert dropdown.value == "fp32"


def test_generations_share_one_place_on_the_cpu(models: Models) -> None:
    fn = generate_event(models)
    assert (fn.concurrency_limit, fn.concurrency_id) == (1, "cpu")


def test_html_in_prompt_text_and_name_is_escaped(models: Models) -> None:
    pieces = (
        render.story(HOSTILE, HOSTILE),
        render.header(models.bundle, HOSTILE),
        render.error(HOSTILE),
        render.message(HOSTILE, [HOSTILE]),
    )
    for html in pieces:
        assert "<script" not in html
        assert "<img" not in html
        assert "&lt;img src=x onerror=alert(1)&gt; &amp; &quot;quoted&quot; &#x27;single&#x27;" in html


def test_the_last_update_shows_text_figures_and_seed(models: Models) -> None:
    text, status = last_update(models, seed="3")
    assert "<span class='prompt'>The mouse</span>" in text
    assert "caret" not in text
    for part in ("Finished", "5 tokens", "tokens/s", "first token", "int8", "seed 3"):
        assert part in status


def test_a_seed_that_was_drawn_gives_the_same_text_again(models: Models) -> None:
    first, status = last_update(models, tokens=20)
    seed = re.search(r"seed (\d+)", status)[1]
    assert last_update(models, tokens=20, seed=seed)[0] == first


def test_a_cut_is_said(models: Models) -> None:
    _, status = last_update(models, tokens=100_000)
    assert "the context is full" in status


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ({"prompt": "mouse " * 500}, "The prompt has "),
        ({"temperature": -1.0}, "Temperature must be 0"),
        ({"top_p": 0.0}, "Top_p must be above 0"),
        ({"seed": "-1"}, "Seed must be 0"),
        ({"seed": "<b>"}, "Seed must be a whole number or empty, not &#x27;&lt;b&gt;&#x27;"),
    ],
)
def test_a_visitors_mistake_becomes_the_status_line(models: Models, mistake, said) -> None:
    text, status = last_update(models, **mistake)
    assert "role='alert'" in status
    assert said in status
    assert "caret" not in text


def test_stop_strings_are_lines_and_may_hold_line_breaks() -> None:
    assert split_stop_strings("The end\n\n\\n\\n\n Tom") == ("The end", "\n\n", " Tom")
    assert split_stop_strings("") == ()


@pytest.mark.parametrize(("number", "shown"), [(383_616, "0.4 MB"), (145_312_416, "145 MB"), (12_000, "0.0 MB")])
def test_sizes_read_well(number, shown) -> None:
    assert render.size(number) == shown
