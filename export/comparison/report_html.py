"""A comparison as one HTML page: verdict, table, plots, and what the figures mean. It loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from string import Template

from export.comparison.report import change_text
from export.comparison.results import QUANTILES, Comparison, PrecisionFigures
from export.comparison.svg import Bar, Line, bars, dots, lines, whiskers
from runtime.bundle import Bundle
from runtime.precisions import PRECISIONS
from runtime.text.tokenizer import Tokenizer

# Where the perplexity's axis turns from linear to logarithmic.
PERPLEXITY_UNIT = 1e-4
# Smaller KLs are rounding, whichever.
LEAST_KL = 1e-6
CACHE_PATHS = {"prefill_decode": "one by one", "chunks": "in chunks", "batch": "in a batch"}

PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7f9; color: #111827; font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 16px 48px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 15px; margin: 0 0 2px; }
p { margin: 0 0 10px; }
.muted { color: #4b5563; }
.small { font-size: 13px; }
.verdict { margin: 14px 0 18px; padding: 10px 14px; border-radius: 8px; border-left: 5px solid; background: #fff; }
.good { border-color: #16a34a; }
.bad { border-color: #dc2626; }
.grid { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); }
.card { background: #fff; border: 1px solid #e5e7eb; border-radius: 10px; padding: 14px 16px; margin-bottom: 14px; }
.grid .card { margin-bottom: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: 6px 10px; text-align: right; border-bottom: 1px solid #eef0f3; }
th { font-weight: 600; font-size: 13px; color: #4b5563; }
.grid table { font-size: 13px; }
.grid th, .grid td { padding: 5px 0 5px 8px; }
.grid th { white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr:last-child td { border-bottom: 0; }
i.key { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 6px; }
span.key { margin-right: 14px; white-space: nowrap; }
svg { display: block; width: 100%; max-width: 520px; height: auto; margin-top: 10px; }
dt { font-weight: 600; } dd { margin: 0 0 8px; color: #4b5563; }
code { background: #f3f4f6; padding: 1px 5px; border-radius: 4px; }
</style>
</head>
<body><main>
<h1>$title</h1>
<p class="muted">$subtitle</p>
$verdict
<div class="card scroll">$summary</div>
<div class="grid">
$plots
</div>
<div class="grid" style="margin-top: 14px">
$tables
</div>
<div class="card" style="margin-top: 14px"><h2>What the figures mean</h2>
<dl class="small">
<dt>KL</dt><dd>How much the predictions differ, in nats a token: the mean of KL(reference ‖ precision) over all tokens.
The other way round weighs what the precision says and the reference would not.</dd>
<dt>top-1, top-5</dt><dd>How often both find the same token likeliest; the share of the five
likeliest that both have.</dd>
<dt>perplexity, ±</dt><dd>Change against the reference on the same tokens. The 95 % interval comes from the spread of
the means of thirty parts of the text (batch means: Schmeiser 1982).</dd>
<dt>greedy</dt><dd>Tokens that agree before the first that differs. The margin is the reference&#8217;s logit of its own
token less that of the other: a small one means that the reference itself could hardly choose.</dd>
<dt>drift</dt><dd>Relative error of the residual stream after the embedding and after each attention and MLP, mean over
tokens. A step is what that part adds.</dd>
<dt>cache paths</dt><dd>Largest difference of a logit from one pass over the whole text, over the largest logit. Where
activations are quantized, the paths quantize different tensors.</dd>
</dl></div>
</main></body>
</html>
""")


def html_report(comparison: Comparison, bundle: Bundle, faults: Sequence[str]) -> str:
    """The page.

    Args:
        comparison: with details.
        bundle: for the model's name and the tokens' texts.
        faults: what falls short of the limits.
    """
    colours = {name: PRECISIONS[name].colour for name in comparison.precisions}
    name = str(bundle.manifest.get("source", bundle.folder)).rstrip("/").rpartition("/")[2]
    own = comparison.reference
    interval = "" if own.perplexity_interval is None else " (95 %: {:.3f} to {:.3f})".format(*own.perplexity_interval)
    subtitle = (
        f"{comparison.tokens:,} tokens of {escape(comparison.text)}, windows of {comparison.window}. "
        f"Reference: {escape(own.name)}, perplexity {own.perplexity:.4f}{interval}."
    )
    return PAGE.substitute(
        title=escape(f"{name} as ONNX: is it the model?"),
        subtitle=subtitle,
        verdict=_verdict(faults),
        summary=_summary(comparison, colours),
        plots="\n".join(_plots(comparison, colours)),
        tables="\n".join(_tables(comparison, bundle)),
    )


def _verdict(faults: Sequence[str]) -> str:
    if not faults:
        return '<p class="verdict good"><b>Every precision is within its limits.</b></p>'
    items = "".join(f"<li>{escape(fault)}</li>" for fault in faults)
    return f'<div class="verdict bad"><b>Too far from the reference:</b><ul style="margin: 4px 0 0">{items}</ul></div>'


def _summary(comparison: Comparison, colours: dict[str, str]) -> str:
    header = ("precision", "MB", "int8", "KL", "top-1", "top-5", "perplexity", "change", "greedy", "prefill", "decode")
    return _table((*header, "peak MB", "load s"), [
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


def _plots(comparison: Comparison, colours: dict[str, str]) -> Iterable[str]:
    rows = comparison.precisions.items()
    kl = [Bar(name, colours[name], f.kl, f"{f.kl:.2g} nats; the other way {f.reverse_kl:.2g}") for name, f in rows]
    yield _card("KL from the reference", "nats a token, logarithmic", dots("KL", kl, least=LEAST_KL))
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
    yield _card(
        "Change of the perplexity",
        f"95 % intervals; logarithmic beyond ±{PERPLEXITY_UNIT:.2%}",
        whiskers("Change of the perplexity", changes, unit=PERPLEXITY_UNIT, tick=_tick),
    )
    shares = [f"{100 * share:g} %" for share in QUANTILES]
    quantiles = [
        Line(name, colours[name], [*f.logit_difference_quantiles.values(), f.max_abs_logit_difference])
        for name, f in rows
    ]
    yield _card(
        "Differences of logits",
        "the largest difference within this share of all logits",
        lines("Quantiles of the differences of logits", [*shares, "all"], quantiles) + _key(colours),
    )
    yield from _drift_plot(comparison, colours)
    sizes = [Bar(name, colours[name], f.file_bytes, _size_text(f)) for name, f in rows]
    yield _card("Size", "megabytes on disk; at most in memory, Python included", bars("File size", sizes))
    speeds = [
        Bar(name, colours[name], f.decode_tokens_per_second, f"{f.decode_tokens_per_second:,.0f}; prefill "
            f"{f.prefill_tokens_per_second:,.0f}")
        for name, f in rows
    ]  # fmt: skip
    yield _card("Decode", "tokens per second", bars("Decode speed", speeds))


def _drift_plot(comparison: Comparison, colours: dict[str, str]) -> Iterable[str]:
    series = [
        Line(name, colours[name], [error for _, error in figures.details.drift.steps])
        for name, figures in comparison.precisions.items()
        if figures.details is not None and figures.details.drift is not None
    ]
    if not series:
        return
    layers = (len(series[0].values) - 1) // 2
    every = -(-layers // 10)
    # Each layer's number stands under its attention; the MLP follows without one.
    labels = [
        "emb",
        *(str(step // 2) if step % 2 == 0 and step // 2 % every == 0 else "" for step in range(2 * layers)),
    ]
    plot = lines("Drift by layer", labels, series) + _key(colours)
    yield _card("Drift by layer", "relative error of the residual stream after each attention and MLP", plot)


def _tables(comparison: Comparison, bundle: Bundle) -> Iterable[str]:
    tokenizer = Tokenizer(bundle)
    rows = [
        (escape(name), str(f.first_divergence), *(f"<code>{escape(repr(tokenizer.decode([token_id])))}</code>"
         for token_id in f.first_divergence_tokens), f"{f.first_divergence_margin:.3f}")
        for name, f in comparison.precisions.items()
        if f.first_divergence_tokens is not None
    ]  # fmt: skip
    text = f"{comparison.continued_tokens} tokens, from the first of the text."
    if rows:
        text = _table(("precision", "after", "reference", "here", "margin"), rows)
    yield _card("Where greedy continuations part", "", f'<div class="scroll">{text}</div>')
    details = {name: f.details for name, f in comparison.precisions.items() if f.details is not None}
    if not details:
        return
    paths = [
        (escape(name), *(f"{found.cache_paths[path]:.1e}" for path in CACHE_PATHS)) for name, found in details.items()
    ]
    yield _card(
        "Cache paths against one pass", "", f'<div class="scroll">{_table(("", *CACHE_PATHS.values()), paths)}</div>'
    )
    worst = [
        (escape(name), escape(found.drift.worst), f"{found.drift.mlp[-1]:.2g}")
        for name, found in details.items()
        if found.drift is not None
    ]
    if worst:
        table = _table(("", "adds most", "drift at the end"), worst)
        yield _card("Where precision is lost", "", f'<div class="scroll">{table}</div>')


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


def _card(title: str, note: str, content: str) -> str:
    note = f'<p class="muted small" style="margin: 0">{escape(note)}</p>' if note else ""
    return f'<section class="card"><h2>{escape(title)}</h2>{note}{content}</section>'


def _key(colours: dict[str, str]) -> str:
    keys = (
        f'<span class="key"><i class="key" style="background: {colour}"></i>{escape(name)}</span>'
        for name, colour in colours.items()
    )
    return f'<p class="small" style="margin: 4px 0 0">{"".join(keys)}</p>'


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are markup; the header is text."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
