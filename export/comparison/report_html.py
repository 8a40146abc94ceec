"""A comparison as one HTML page: verdict, table, plots, and what the figures mean. It loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from export.comparison.report import change_text
from export.comparison.report_losses import LEAST_KL, layer_section, token_section
from export.comparison.report_page import PAGE, card, key, section, table
from export.comparison.results import QUANTILES, Comparison, PrecisionFigures
from export.comparison.svg import Bar, Line, bars, dots, lines, whiskers
from export.comparison.token_losses import token_texts
from runtime.bundle import Bundle
from runtime.precisions import PRECISIONS
from runtime.text.tokenizer import Tokenizer

# Where the perplexity's axis turns from linear to logarithmic.
PERPLEXITY_UNIT = 1e-4
CACHE_PATHS = {"prefill_decode": "one by one", "chunks": "in chunks", "batch": "in a batch"}


def html_report(comparison: Comparison, bundle: Bundle, faults: Sequence[str], warnings: Sequence[str] = ()) -> str:
    """The page.

    Args:
        comparison: with details.
        bundle: for the model's name and the tokens' texts.
        faults: what falls short of the limits.
        warnings: what is not fit for use.
    """
    colours = {name: PRECISIONS[name].colour for name in comparison.precisions}
    name = str(bundle.manifest.get("source", bundle.folder)).rstrip("/").rpartition("/")[2]
    own = comparison.reference
    interval = "" if own.perplexity_interval is None else " (95 %: {:.3f} to {:.3f})".format(*own.perplexity_interval)
    subtitle = (
        f"{comparison.tokens:,} tokens of {escape(comparison.text)}, windows of {comparison.window}. "
        f"Reference: {escape(own.name)}, perplexity {own.perplexity:.4f}{interval}."
    )
    text_of = token_texts(bundle)
    sections = (
        section("How far predictions lie apart", "", _prediction_plots(comparison, colours)),
        token_section(comparison, colours, text_of),
        layer_section(comparison, colours, text_of),
        section(
            "What it costs, and how it runs",
            "",
            [*_cost_plots(comparison, colours), *_cache_paths(comparison)],
            below=_continuations(comparison, bundle),
        ),
    )
    return PAGE.substitute(
        title=escape(f"{name} as ONNX: is it the model?"),
        subtitle=subtitle,
        verdict=_verdict(faults, warnings),
        summary=_summary(comparison, colours),
        sections="\n".join(sections),
    )


def _verdict(faults: Sequence[str], warnings: Sequence[str]) -> str:
    if not faults and not warnings:
        return '<p class="verdict good"><b>Every precision is within its limits.</b></p>'
    boxes = (("bad", "Too far from the reference:", faults), ("doubtful", "Not fit for use:", warnings))
    return "".join(
        f'<div class="verdict {kind}"><b>{title}</b><ul style="margin: 4px 0 0">'
        f"{''.join(f'<li>{escape(line)}</li>' for line in found)}</ul></div>"
        for kind, title, found in boxes
        if found
    )


def _summary(comparison: Comparison, colours: Mapping[str, str]) -> str:
    header = ("precision", "MB", "int8", "KL", "top-1", "top-5", "perplexity", "change", "greedy", "prefill", "decode")
    return table((*header, "peak MB", "load s"), [
        (
            f'<i class="key" style="background: {colours[name]}"></i>{escape(name)}',
            f"{figures.file_bytes / 1e6:,.1f}",
            "" if figures.int8_weight_fraction is None else f"{figures.int8_weight_fraction:.1%}",
            f"{figures.kl:.2g}",
            f"{figures.top1_agreement:.2%}",
            f"{figures.top5_agreement:.2%}",
            f"{figures.perplexity:.4f}",
            change_text(figures.perplexity_change, figures.perplexity_change_interval),
            f"{_agreeing(figures, comparison)}/{comparison.continued_tokens}",
            f"{figures.prefill_tokens_per_second:,.0f}",
            f"{figures.decode_tokens_per_second:,.0f}",
            *_footprint(figures),
        )
        for name, figures in comparison.precisions.items()
    ])  # fmt: skip


def _prediction_plots(comparison: Comparison, colours: Mapping[str, str]) -> Iterable[str]:
    rows = comparison.precisions.items()
    kl = [Bar(name, colours[name], f.kl, f"{f.kl:.2g} nats; the other way {f.reverse_kl:.2g}") for name, f in rows]
    yield card("KL from the reference", "nats a token, logarithmic", dots("KL", kl, least=LEAST_KL))
    changes = [
        Bar(
            name,
            colours[name],
            f.perplexity_change,
            change_text(f.perplexity_change, f.perplexity_change_interval, 3),
            *(f.perplexity_change_interval or ()),
        )
        for name, f in rows
    ]
    yield card(
        "Change of the perplexity",
        f"95 % intervals; logarithmic beyond ±{PERPLEXITY_UNIT:.2%}",
        whiskers("Change of the perplexity", changes, unit=PERPLEXITY_UNIT, tick=_tick),
    )
    shares = [f"{100 * share:g} %" for share in QUANTILES]
    quantiles = [
        Line(name, colours[name], [*f.logit_difference_quantiles.values(), f.max_abs_logit_difference])
        for name, f in rows
    ]
    yield card(
        "Differences of logits",
        "the largest difference within this share of all logits",
        lines("Quantiles of the differences of logits", [*shares, "all"], quantiles) + key(colours),
    )


def _cost_plots(comparison: Comparison, colours: Mapping[str, str]) -> Iterable[str]:
    rows = comparison.precisions.items()
    sizes = [Bar(name, colours[name], f.file_bytes, _size_text(f)) for name, f in rows]
    yield card("Size", "megabytes on disk; at most in memory, Python included", bars("File size", sizes))
    speeds = [
        Bar(name, colours[name], f.decode_tokens_per_second, f"{f.decode_tokens_per_second:,.0f}; prefill "
            f"{f.prefill_tokens_per_second:,.0f}")
        for name, f in rows
    ]  # fmt: skip
    yield card("Decode", "tokens per second", bars("Decode speed", speeds))


def _continuations(comparison: Comparison, bundle: Bundle) -> str:
    tokenizer = Tokenizer(bundle)
    rows = [
        (escape(name), str(f.first_divergence), *(f"<code>{escape(repr(tokenizer.decode([token_id])))}</code>"
         for token_id in f.first_divergence_tokens), f"{f.first_divergence_margin:.3f}")
        for name, f in comparison.precisions.items()
        if f.first_divergence_tokens is not None
    ]  # fmt: skip
    text = f"{comparison.continued_tokens} tokens, from the first of the text."
    if rows:
        text = table(("precision", "after", "reference", "here", "margin"), rows)
    return card("Where greedy continuations part", "", f'<div class="scroll">{text}</div>')


def _cache_paths(comparison: Comparison) -> Iterable[str]:
    details = {name: f.details for name, f in comparison.precisions.items() if f.details is not None}
    if not details:
        return
    paths = [
        (escape(name), *(f"{found.cache_paths[path]:.1e}" for path in CACHE_PATHS)) for name, found in details.items()
    ]
    yield card(
        "Cache paths against one pass", "", f'<div class="scroll">{table(("", *CACHE_PATHS.values()), paths)}</div>'
    )


def _agreeing(figures: PrecisionFigures, comparison: Comparison) -> int:
    return comparison.continued_tokens if figures.first_divergence is None else figures.first_divergence


def _footprint(figures: PrecisionFigures) -> tuple[str, str]:
    if figures.details is None:
        return "", ""
    footprint = figures.details.footprint
    return f"{footprint.peak_memory_bytes / 1e6:,.0f}", f"{footprint.load_seconds:.2f}"


def _size_text(figures: PrecisionFigures) -> str:
    peak, _ = _footprint(figures)
    return f"{figures.file_bytes / 1e6:,.2f}" + (f"; memory {peak}" if peak else "")


def _tick(change: float) -> str:
    return f"{100 * change:+g} %" if change else "0"
