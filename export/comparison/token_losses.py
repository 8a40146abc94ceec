"""Which tokens a precision loses most at: the worst ones, and the mean KL by position, by kind and by confidence."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from export.comparison.predictions import Predictions
from runtime.bundle import Bundle
from runtime.text.tokenizer import Tokenizer

WORST = 12
CONTEXT_TOKENS = 14
# Tokens before one in its window: from which number on, and the group's name.
POSITIONS = {1: "1", 2: "2-3", 4: "4-15", 16: "16-63", 64: "64-255", 256: "256 on"}
# Probability of the reference's likeliest token.
CONFIDENCES = {0.0: "below 10 %", 0.1: "10-30 %", 0.3: "30-60 %", 0.6: "60-90 %", 0.9: "90-99 %", 0.99: "above 99 %"}
WORST_SHARES = (0.01, 0.1)
# The first kind counts whose pattern the token's text matches.
KINDS = {
    "number": re.compile(r"\s*\d.*", re.DOTALL),
    "space": re.compile(r"\s+"),
    "new word": re.compile(r"\s.*\w.*", re.DOTALL),
    "within a word": re.compile(r".*\w.*", re.DOTALL),
    "other signs": re.compile(r".*", re.DOTALL),
}


@dataclass(frozen=True)
class Choice:
    """A model's likeliest token, and its probability."""

    token_id: int
    probability: float


@dataclass(frozen=True)
class WorstToken:
    """A position of the text at which the precision's prediction lies far from the reference's.

    Attributes:
        kl: in nats.
        context: the token ids before it, the last ones.
        token_id: what came.
        reference: what the reference found likeliest.
        found: what the precision did.
    """

    kl: float
    context: list[int]
    token_id: int
    reference: Choice
    found: Choice


@dataclass(frozen=True)
class Group:
    """Tokens that have something in common: how many, and their mean KL in nats."""

    label: str
    tokens: int
    kl: float


@dataclass(frozen=True)
class TokenLosses:
    """One precision's KL, token by token.

    Attributes:
        worst: the tokens with the largest KL, that first.
        worst_shares: share of tokens, the worst -> their share of all KL.
        by_position: by tokens before it in its window.
        by_kind: of the token that came.
        by_confidence: by the probability of the reference's likeliest token.
    """

    worst: list[WorstToken]
    worst_shares: dict[str, float]
    by_position: list[Group]
    by_kind: list[Group]
    by_confidence: list[Group]


def measure_token_losses(
    windows: Sequence[Sequence[int]],
    reference: Predictions,
    found: Predictions,
    text_of: Callable[[int], str],
) -> TokenLosses:
    """Where the KL is.

    Args:
        windows: of the text; all tokens of each but the first were predicted.
        reference: its predictions.
        found: the precision's.
        text_of: a token's text.
    """
    kl = found.divergence.token_kl
    targets = np.concatenate([window[1:] for window in windows])
    positions = np.concatenate([np.arange(1, len(window)) for window in windows])
    window_of = np.repeat(np.arange(len(windows)), [len(window) - 1 for window in windows])
    order = np.argsort(-kl, kind="stable")
    worst = [
        WorstToken(
            float(kl[place]),
            list(windows[window_of[place]][: positions[place]][-CONTEXT_TOKENS:]),
            int(targets[place]),
            _choice(reference, place),
            _choice(found, place),
        )
        for place in order[:WORST].tolist()
    ]
    kinds = {token_id: _kind(text_of(token_id)) for token_id in set(targets.tolist())}
    kind_of = np.array([kinds[token_id] for token_id in targets.tolist()])
    return TokenLosses(
        worst,
        {str(share): _share(kl[order], share) for share in WORST_SHARES},
        _by_bounds(positions, POSITIONS, kl),
        [_group(kind, kl[kind_of == kind]) for kind in KINDS if (kind_of == kind).any()],
        _by_bounds(reference.likeliest_probabilities, CONFIDENCES, kl),
    )


def token_texts(bundle: Bundle) -> Callable[[int], str]:
    """The text that a token adds to one before it: decoded alone, some tokenizers take its space away."""
    tokenizer = Tokenizer(bundle)
    before = tokenizer.encode("a", add_special_tokens=False)
    known = len(tokenizer.decode(before))
    return lambda token_id: tokenizer.decode([*before, token_id])[known:]


def _choice(predictions: Predictions, place: int) -> Choice:
    return Choice(int(predictions.likeliest[place]), float(predictions.likeliest_probabilities[place]))


def _kind(text: str) -> str:
    return next(kind for kind, pattern in KINDS.items() if pattern.fullmatch(text))


def _share(descending: np.ndarray, share: float) -> float:
    """The share of the sum that the first numbers have; 0 of nothing."""
    total = float(descending.sum())
    count = max(1, round(share * len(descending)))
    return float(descending[:count].sum()) / total if total > 0 else 0.0


def _by_bounds(values: np.ndarray, groups: Mapping[float, str], kl: np.ndarray) -> list[Group]:
    """Groups from each bound on, up to the next; those without tokens are left out."""
    held = np.searchsorted(list(groups), values, side="right") - 1
    return [_group(label, kl[held == number]) for number, label in enumerate(groups.values()) if (held == number).any()]


def _group(label: str, kl: np.ndarray) -> Group:
    return Group(label, len(kl), float(kl.mean()))
