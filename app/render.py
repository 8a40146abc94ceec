"""What the page shows, as HTML. Every text from outside is escaped here, and nowhere else."""

from __future__ import annotations

from html import escape

from app.generation import Progress
from runtime.bundle import Bundle

FINISHED = {
    "stop": "Finished: end of the text",
    "length": "Finished: max new tokens reached",
    "cancelled": "Stopped",
    None: "Writing…",
}


def header(bundle: Bundle, name: str) -> str:
    """The title and a line on what the model is."""
    parameters = bundle.manifest.get("parameters", {}).get("total")
    facts = [
        f"{_round(parameters)} parameters" if parameters else "a language model",
        f"context of {bundle.shape.max_position_embeddings:,} tokens",
        "runs on this machine's CPU",
    ]
    return (
        f"<header><h1>{escape(name)}</h1>"
        f"<p>SmolText continues the text that you begin. "
        f"<span class='facts'>{escape(' · '.join(facts))}</span></p></header>"
    )


def story(prompt: str = "", text: str = "", *, is_running: bool = False) -> str:
    """Prompt and continuation as one text, told apart by their colour; where there is neither, a hint."""
    if not (prompt or text or is_running):
        return "<div class='story empty'>The text will appear here.</div>"
    caret = "<span class='caret'></span>" if is_running else ""
    return f"<div class='story'><span class='prompt'>{escape(prompt)}</span>{escape(text)}{caret}</div>"


def status(progress: Progress) -> str:
    """The end or the state of a generation, and its figures."""
    generation = progress.generation
    facts = [_count(generation.new_tokens, "token")]
    if generation.decode_seconds:
        facts.append(f"{_speed(generation.decode_tokens_per_second)} tokens/s")
    if generation.new_tokens:
        facts.append(f"first token {_milliseconds(generation.time_to_first_token_seconds)}")
    facts += [progress.request.precision, f"seed {progress.request.sampling.seed}"]
    return message(_state(progress), facts)


def message(state: str, facts: list[str] | None = None) -> str:
    """A status line without figures, or with these."""
    spans = "".join(f"<span>{escape(fact)}</span>" for fact in facts or [])
    return f"<div class='status' role='status'><strong>{escape(state)}</strong>{spans}</div>"


def error(text: str) -> str:
    """A status line that says what went wrong."""
    return f"<div class='status error' role='alert'><strong>{escape(text[:1].upper() + text[1:])}</strong></div>"


def size(file_bytes: int) -> str:
    """Bytes in the unit that people read: `137 MB`, `0.4 MB`."""
    megabytes = file_bytes / 1e6
    return f"{megabytes:,.0f} MB" if megabytes >= 10 else f"{megabytes:.1f} MB"


def _state(progress: Progress) -> str:
    is_cut = progress.limit_tokens < (progress.request.sampling.max_new_tokens or 0)
    if is_cut and progress.finish_reason == "length":
        return f"Finished: the context is full, {progress.limit_tokens:,} new tokens had room"
    return FINISHED[progress.finish_reason]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _speed(tokens_per_second: float) -> str:
    return f"{tokens_per_second:,.0f}" if tokens_per_second >= 10 else f"{tokens_per_second:.1f}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def _round(number: int) -> str:
    for unit, name in ((1e9, " billion"), (1e6, " million")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:,}"
