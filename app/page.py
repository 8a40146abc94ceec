"""The page: its parts, and what happens when one is pressed."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from app import render
from app.generation import Request, stream
from app.models import Models
from runtime.engine.sequence import DEFAULT_MAX_NEW_TOKENS
from runtime.errors import OptionError, SmolTextError
from runtime.sampling.options import SamplingOptions, meaning

# Whatever generates shares this queue: the CPU is one, and two generations at once are each half as fast.
CPU_QUEUE = "cpu"
SEED_BITS = 31
FAULT = "this page failed; what happened is in the log of its server"
# What only changes the page: at once, beside the queue.
ASIDE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
EXAMPLES = [
    "Once upon a time, there was a little girl named Lily.",
    "Tom had a red car. One day, he",
    "The big dog and the small cat were friends. They",
    "In the forest, a bird found a shiny",
]
# Of each sampling option that has a slider: label, least, most, step. The meaning is the runtime's, the default the
# model's own or else the runtime's.
SLIDERS = {
    "temperature": ("Temperature", 0, 2, 0.05),
    "top_k": ("Top-k", 0, 200, 1),
    "top_p": ("Top-p", 0.05, 1, 0.01),
    "min_p": ("Min-p", 0, 0.5, 0.01),
    "typical_p": ("Typical-p", 0.05, 1, 0.01),
    "repetition_penalty": ("Repetition penalty", 1, 2, 0.05),
    "frequency_penalty": ("Frequency penalty", 0, 2, 0.05),
    "presence_penalty": ("Presence penalty", 0, 2, 0.05),
    "no_repeat_ngram_size": ("No-repeat n-gram size", 0, 10, 1),
}

Update = tuple[str, str]  # the story and the status line


@dataclass(frozen=True)
class Controls:
    """What a visitor sets beside the prompt. `sampling` is by the names of SamplingOptions, without the seed."""

    precision: gr.Dropdown
    max_new_tokens: gr.Slider
    seed: gr.Textbox
    stop_strings: gr.Textbox
    sampling: dict[str, gr.Slider]


@dataclass(frozen=True)
class Writing:
    """The prompt, its buttons and the text that comes of it."""

    prompt: gr.Textbox
    generate: gr.Button
    stop: gr.Button
    status: gr.HTML
    story: gr.HTML


def build_page(models: Models, *, name: str, precision: str) -> gr.Blocks:
    """The page for a bundle.

    Args:
        models: what generates.
        name: the title.
        precision: selected at first.
    """
    page = gr.Blocks(title=f"{name} · SmolText", analytics_enabled=False)
    with page:
        gr.HTML(render.header(models.bundle, name))
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                writing = _writing()
            with gr.Column(scale=3, min_width=280):
                controls = _controls(models, precision)
        _connect(models, writing, controls)
    return page


def continue_text(
    models: Models,
    prompt: str,
    precision: str,
    max_new_tokens: int,
    stop_strings: str,
    seed: str,
    sampling: dict[str, float],
    stop: threading.Event,
) -> Iterator[Update]:
    """What the page shows while it generates. A visitor's mistake becomes the status line."""
    try:
        options = replace(
            SamplingOptions(**models.bundle.generation_defaults),
            max_new_tokens=max_new_tokens,
            stop_strings=split_stop_strings(stop_strings),
            seed=parse_seed(seed),
            **sampling,  # type: ignore[arg-type]  # it checks them itself
        )
        for progress in stream(models, Request(prompt, precision, options), stop):
            is_running = progress.finish_reason is None
            text = render.story(prompt, progress.generation.text, is_running=is_running)
            yield text, render.status(progress)
    except SmolTextError as error:
        yield render.story(prompt), render.error(str(error))


def parse_seed(text: str) -> int:
    """The visitor's seed, or a new one: drawn here and not in the runtime, so that a good story can be had again.

    Raises:
        OptionError: it is no whole number.
    """
    if not text.strip():
        return secrets.randbits(SEED_BITS)
    try:
        return int(text)
    except ValueError:
        raise OptionError(f"seed must be a whole number or empty, not {text.strip()!r}") from None


def split_stop_strings(lines: str) -> tuple[str, ...]:
    r"""One stop string a line; `\n` in it is a line break."""
    return tuple(line.replace("\\n", "\n") for line in lines.splitlines() if line)


def _writing() -> Writing:
    prompt = gr.Textbox(
        "",
        label="Prompt",
        lines=3,
        max_lines=10,
        placeholder="Begin a text. Left empty, the model begins one itself.",
        autofocus=True,
        elem_id="prompt",
    )
    gr.Examples(EXAMPLES, prompt, label="Or try", elem_id="examples")
    with gr.Row():
        generate = gr.Button("Generate", variant="primary", min_width=120, elem_id="generate")
        stop = gr.Button("Stop", variant="stop", interactive=False, min_width=120, elem_id="stop")
    status = gr.HTML(render.message("Ready"), elem_id="status")
    story = gr.HTML(render.story(), elem_id="story")
    return Writing(prompt, generate, stop, status, story)


def _controls(models: Models, precision: str) -> Controls:
    context = models.bundle.shape.max_position_embeddings
    default = SamplingOptions(**models.bundle.generation_defaults)
    choices = [(f"{name} · {render.size(models.bundle.file_bytes(name))}", name) for name in models.bundle.precisions]
    chosen = gr.Dropdown(choices, value=precision, label="Precision", elem_id="precision")
    max_new_tokens = gr.Slider(
        1,
        context - 1,
        value=min(default.max_new_tokens or DEFAULT_MAX_NEW_TOKENS, context - 1),
        step=1,
        label="Max new tokens",
    )
    temperature = _slider("temperature", default)
    seed = gr.Textbox(
        "" if default.seed is None else str(default.seed),
        label="Seed",
        placeholder="empty: a new one each time",
        max_lines=1,
        elem_id="seed",
    )
    with gr.Accordion("More sampling", open=False, elem_id="more"):
        folded = {name: _slider(name, default) for name in SLIDERS if name != "temperature"}
        stop_strings = gr.Textbox(
            "", label="Stop strings", info="one a line; the text ends before any of them", lines=1, max_lines=4
        )
    return Controls(chosen, max_new_tokens, seed, stop_strings, {"temperature": temperature, **folded})


def _slider(name: str, default: SamplingOptions) -> gr.Slider:
    label, least, most, step = SLIDERS[name]
    value = min(max(getattr(default, name), least), most)
    return gr.Slider(least, most, value=value, step=step, label=label, info=meaning(name))


def _connect(models: Models, writing: Writing, controls: Controls) -> None:
    """Generate: show that it begins, run in the queue, unlock the button. Stop asks the run to end by itself.

    Gradio's own `cancels` is not used: it races with updates under way, and leaves an error or an old status behind.
    """
    visitors_stop = gr.State(None)  # one threading.Event a visitor, for as long as the page is open
    shown = [writing.story, writing.status]
    buttons = [writing.generate, writing.stop]

    def begin(prompt: str, stop: threading.Event | None) -> tuple[threading.Event, str, str, gr.Button, gr.Button]:
        stop = stop or threading.Event()
        stop.clear()
        waiting = render.message("Waiting for the model…")
        return stop, render.story(prompt, is_running=True), waiting, *_buttons(is_running=True)

    def run(
        prompt: str,
        precision: str,
        max_new_tokens: int,
        stop_strings: str,
        seed: str,
        stop: threading.Event | None,
        **sampling: float,
    ) -> Iterator[Update]:
        stop = stop or threading.Event()  # a client of the API has not begun at the button
        yield from continue_text(models, prompt, precision, max_new_tokens, stop_strings, seed, sampling, stop)

    started = gr.on(
        [writing.generate.click, writing.prompt.submit],
        begin,
        [writing.prompt, visitors_stop],
        [visitors_stop, *shown, *buttons],
        **ASIDE,
    )
    running = started.then(
        run,
        [
            writing.prompt,
            controls.precision,
            controls.max_new_tokens,
            controls.stop_strings,
            controls.seed,
            visitors_stop,
        ],
        shown,
        inputs_kwargs=controls.sampling,
        concurrency_limit=1,
        concurrency_id=CPU_QUEUE,
        show_progress="hidden",
        api_name="generate",
    )
    running.success(lambda: _buttons(is_running=False), None, buttons, **ASIDE)
    # A fault of ours: its traceback is in the server's log, and the visitor must not be left waiting.
    running.failure(
        lambda: (render.error(FAULT), *_buttons(is_running=False)), None, [writing.status, *buttons], **ASIDE
    )
    writing.stop.click(_stop, visitors_stop, writing.stop, **ASIDE)


def _buttons(*, is_running: bool) -> tuple[gr.Button, gr.Button]:
    return gr.Button(interactive=not is_running), gr.Button(interactive=is_running)


def _stop(stop: threading.Event) -> gr.Button:
    stop.set()
    return gr.Button(interactive=False)
