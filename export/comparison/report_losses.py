"""The report's sections on where a precision loses: which tokens, and which layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from html import escape

from export.comparison.outliers import Outliers
from export.comparison.report_page import card, key, section, table
from export.comparison.results import Comparison, Details
from export.comparison.svg import Line, Row, lines, strips
from export.comparison.token_losses import Choice, Group, TokenLosses, WorstToken

# Smaller KLs are rounding: they say nothing of tokens.
LEAST_KL = 1e-6
LARGEST_COLOUR, TYPICAL_COLOUR = "#be123c", "#475569"
WORST_PARTS, WORST_FEATURES = 3, 3
GROUPS: tuple[tuple[str, str, Callable[[TokenLosses], list[Group]]], ...] = (
    ("By the reference's confidence", "probability of its likeliest token", lambda losses: losses.by_confidence),
    ("By kind of token", "of the token that came", lambda losses: losses.by_kind),
    ("By position", "tokens before it in its window", lambda losses: losses.by_position),
)


def token_section(comparison: Comparison, colours: Mapping[str, str], text_of: Callable[[int], str]) -> str:
    """KL by groups of tokens, and the worst tokens with their contexts; empty without details."""
    losses = {
        name: figures.details.token_losses
        for name, figures in comparison.precisions.items()
        if figures.details is not None and figures.details.token_losses is not None and figures.kl > LEAST_KL
    }
    if not losses:
        return ""
    shown = {name: colours[name] for name in losses}
    cards = (
        card(f"{title}", f"KL in nats, logarithmic; {note}", _groups_plot(title, losses, groups, shown) + key(shown))
        for title, note, groups in GROUPS
    )
    worst = "".join(
        _worst_tokens(name, found, shown[name], text_of, is_open=number == 0)
        for number, (name, found) in enumerate(losses.items())
    )
    return section(
        "Which tokens lose most",
        f"KL from {comparison.reference.name}, by the reference's confidence, the token and the place in its window; "
        "and the positions that differ most.",
        cards,
        below=card("The worst tokens", "", worst),
    )


def layer_section(comparison: Comparison, colours: Mapping[str, str], text_of: Callable[[int], str]) -> str:
    """Drift and outliers by layer; empty where no residual stream was seen."""
    details = {name: figures.details for name, figures in comparison.precisions.items() if figures.details is not None}
    return section(
        "Which layers lose most",
        "The residual stream of each graph against the reference's, and where the reference's own activations have "
        "outliers, which is where quantization is hardest.",
        [*_drift(comparison, details, colours), *_outliers(comparison.outliers, text_of)],
    )


def _groups_plot(
    title: str,
    losses: Mapping[str, TokenLosses],
    groups: Callable[[TokenLosses], list[Group]],
    colours: Mapping[str, str],
) -> str:
    columns = [groups(found) for found in losses.values()]
    rows = [
        Row(group.label, f"{group.tokens:,} tokens", [column[number].kl for column in columns])
        for number, group in enumerate(columns[0])
    ]
    return strips(title, rows, list(colours.values()), least=LEAST_KL)


def _worst_tokens(name: str, losses: TokenLosses, colour: str, text_of: Callable[[int], str], *, is_open: bool) -> str:
    shares = ", ".join(
        f"the worst {float(share):.0%} of tokens carry {part:.0%}" for share, part in losses.worst_shares.items()
    )
    rows = [_worst_row(token, text_of) for token in losses.worst]
    content = table(("KL", "text, and the token that came", "reference", name), rows)
    return (
        f'<details{" open" * is_open}><summary><i class="key" style="background: {colour}"></i>{escape(name)}'
        f'<span class="small">of its KL, {shares}</span></summary><div class="scroll words">{content}</div></details>'
    )


def _worst_row(token: WorstToken, text_of: Callable[[int], str]) -> tuple[str, ...]:
    before, came = (_visible(text) for text in ("".join(map(text_of, token.context)), text_of(token.token_id)))
    return (
        f"{token.kl:.2f}",
        f'<span class="text">…{escape(before)}<mark>{escape(came)}</mark></span>',
        *(_choice(choice, text_of) for choice in (token.reference, token.found)),
    )


def _choice(choice: Choice, text_of: Callable[[int], str]) -> str:
    return f"<code>{escape(_visible(text_of(choice.token_id)))}</code> {choice.probability:.0%}"


def _visible(text: str) -> str:
    return text.replace("\n", "↵") or "∅"


def _drift(comparison: Comparison, details: Mapping[str, Details], colours: Mapping[str, str]) -> Iterable[str]:
    drifts = {name: found.drift for name, found in details.items() if found.drift is not None}
    if not drifts:
        return
    # Beside one of rounding alone, the lines of all others would lie together at the top.
    drawn = [name for name in drifts if comparison.precisions[name].kl > LEAST_KL] or list(drifts)
    series = [Line(name, colours[name], [error for _, error in drifts[name].steps]) for name in drawn]
    plot = lines("Drift by layer", _stream_labels(len(series[0].values)), series)
    shown = {name: colours[name] for name in drawn}
    yield card(
        "Drift by layer", "relative error of the residual stream after each attention and MLP", plot + key(shown)
    )
    rows = [
        (
            f'<i class="key" style="background: {colours[name]}"></i>{escape(name)}',
            "<br>".join(f"{escape(part)} <b>+{growth:.2g}</b>" for part, growth in drift.growth[:WORST_PARTS]),
            f"{drift.mlp[-1]:.2g}",
        )
        for name, drift in drifts.items()
    ]
    content = f'<div class="scroll words">{table(("", "what adds most to the drift", "at the end"), rows)}</div>'
    yield card("Where precision is lost", "", content)


def _outliers(outliers: Outliers | None, text_of: Callable[[int], str]) -> Iterable[str]:
    if outliers is None:
        return
    series = [
        Line("largest token", LARGEST_COLOUR, outliers.largest_ratios),
        Line("median token", TYPICAL_COLOUR, outliers.typical_ratios),
    ]
    plot = lines("Outliers by layer", _stream_labels(len(outliers.largest_ratios)), series)
    yield card(
        "Outliers by layer",
        "a token's largest activation over its median one",
        plot + key({line.label: line.colour for line in series}) + _outlier_text(outliers, text_of),
    )


def _outlier_text(outliers: Outliers, text_of: Callable[[int], str]) -> str:
    """Which features and which tokens they are."""
    places = len(outliers.features)
    features = ", ".join(
        f"<b>{feature}</b> (at {count} of {places} places)"
        for feature, count in Counter(outliers.features).most_common(WORST_FEATURES)
    )
    tokens = Counter(zip(outliers.positions, outliers.token_ids, strict=True)).most_common(WORST_FEATURES)
    named = ", ".join(
        f"<code>{escape(_visible(text_of(token_id)))}</code> at position {position} ({count} of {places})"
        for (position, token_id), count in tokens
    )
    return (
        f'<p class="small" style="margin: 8px 0 0">Largest feature of most tokens: {features}. '
        f"Token with the largest outlier: {named}.</p>"
    )


def _stream_labels(places: int) -> list[str]:
    """Each layer's number stands under its attention; the MLP follows without one, and layer 0 in a deep model."""
    layers = (places - 1) // 2
    every = -(-layers // 10)
    shown = range(0 if every == 1 else every, layers, every)
    return ["emb", *(str(step // 2) if step % 2 == 0 and step // 2 in shown else "" for step in range(2 * layers))]
