"""The report's page: its style, and the pieces of markup that its sections are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from string import Template

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
h2 { font-size: 18px; margin: 26px 0 2px; }
h3 { font-size: 15px; margin: 0 0 2px; }
p { margin: 0 0 10px; }
.muted { color: #4b5563; }
.small { font-size: 13px; }
.verdict { margin: 14px 0 18px; padding: 10px 14px; border-radius: 8px; border-left: 5px solid; background: #fff; }
.good { border-color: #16a34a; }
.doubtful { border-color: #d97706; }
.bad { border-color: #dc2626; }
.grid { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); }
.card { background: #fff; border: 1px solid #e5e7eb; border-radius: 10px; padding: 14px 16px; margin-bottom: 14px; }
.grid .card { margin-bottom: 0; }
.grid + .card { margin-top: 14px; }
.section { margin: 0 0 12px; max-width: 720px; }
details { border-top: 1px solid #eef0f3; padding: 8px 0 2px; }
details:first-of-type { border-top: 0; }
summary { cursor: pointer; font-weight: 600; }
summary span { font-weight: 400; color: #4b5563; margin-left: 6px; }
.words td { vertical-align: top; }
.words td:first-child { font-variant-numeric: tabular-nums; }
.words td:nth-child(n + 2), .words th:nth-child(n + 2) { text-align: left; }
.words .text { display: block; white-space: pre-wrap; min-width: 260px; overflow-wrap: anywhere; color: #4b5563; }
mark { background: #fef3c7; color: #111827; border-radius: 4px; padding: 1px 3px; }
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
$sections
<div class="card" style="margin-top: 26px"><h3>What the figures mean</h3>
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
<dt>outliers</dt><dd>A token&#8217;s largest activation over its median one, in the residual stream of the reference.
What shares a scale with an outlier keeps few steps.</dd>
<dt>cache paths</dt><dd>Largest difference of a logit from one pass over the whole text, over the largest logit. Where
activations are quantized, the paths quantize different tensors.</dd>
</dl></div>
</main></body>
</html>
""")


def section(title: str, note: str, cards: Iterable[str], *, below: str = "") -> str:
    """A heading, cards side by side, and markup across the page below them; nothing where there are no cards."""
    content = "\n".join(cards)
    if not content:
        return ""
    note = f'<p class="muted small section">{escape(note)}</p>' if note else ""
    return f'<h2>{escape(title)}</h2>{note}<div class="grid">\n{content}\n</div>{below}'


def card(title: str, note: str, content: str) -> str:
    """A titled box around markup."""
    note = f'<p class="muted small" style="margin: 0">{escape(note)}</p>' if note else ""
    return f'<section class="card"><h3>{escape(title)}</h3>{note}{content}</section>'


def key(colours: Mapping[str, str]) -> str:
    """Which colour is what."""
    keys = (
        f'<span class="key"><i class="key" style="background: {colour}"></i>{escape(name)}</span>'
        for name, colour in colours.items()
    )
    return f'<p class="small" style="margin: 4px 0 0">{"".join(keys)}</p>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are markup, the header is text."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
