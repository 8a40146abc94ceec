"""How well a precision predicts a text: perplexity with its interval, KL against another precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from runtime.engine.session import DecoderSession
from runtime.errors import OptionError, PromptError
from runtime.evaluation.divergence import KlAccumulator
from runtime.evaluation.interval import mean_interval
from runtime.evaluation.logits import Logits
from runtime.evaluation.nll import NllAccumulator
from runtime.evaluation.windows import strided_windows
from runtime.progress import progress_bar


@dataclass(frozen=True)
class Perplexity:
    """What was measured.

    Attributes:
        tokens: predicted, each once.
        window: the longest context of a prediction, itself included.
        stride: tokens that each window predicts anew: each has at least window - stride tokens before it.
        interval: 95 %, by batch means; None for too short a text.
        against: another precision, if its figures were asked for.
        kl: mean KL(against || this), in nats.
        top1_agreement: share of positions at which both have the same likeliest token.
        change: of the other precision's perplexity, and its 95 % interval.
    """

    precision: str
    tokens: int
    window: int
    stride: int
    perplexity: float
    interval: tuple[float, float] | None
    nats_per_token: float
    against: str | None = None
    against_perplexity: float | None = None
    kl: float | None = None
    top1_agreement: float | None = None
    change: float | None = None
    change_interval: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """Lines for a terminal."""
        text = f"{self.precision}: perplexity {self.perplexity:.4f}{_bounds(self.interval, '.4f')}"
        text += f", {self.nats_per_token:.4f} nats a token, {self.tokens:,} tokens"
        if self.against is None or self.change is None:
            return text
        change = f"{self.change:+.2%}{_bounds(self.change_interval, '+.2%')}"
        return (
            f"{text}\n{self.against}: perplexity {self.against_perplexity:.4f}\n"
            f"change {change}, KL({self.against} || {self.precision}) {self.kl:.2e} nats, "
            f"same likeliest token {self.top1_agreement:.2%}"
        )


def measure_perplexity(
    session: DecoderSession,
    token_ids: Sequence[int],
    *,
    window: int | None = None,
    stride: int | None = None,
    against: DecoderSession | None = None,
    progress: bool = False,
) -> Perplexity:
    """Predict every token of a text but the first.

    Args:
        session: the precision.
        token_ids: the text, at least two.
        window: None for the context.
        stride: None for half a window.
        against: a precision to measure the divergence from.
        progress: show how far it is, on stderr.

    Raises:
        PromptError: too short a text.
        OptionError: a window beyond the context or below 2, a stride beyond the window or below 1.
    """
    context = session.shape.max_position_embeddings
    window = context if window is None else window
    if not 2 <= window <= context:
        raise OptionError(f"window must lie in 2..{context}, the model's context, not {window}")
    stride = max(1, window // 2) if stride is None else stride
    if not 1 <= stride < window:
        raise OptionError(f"stride must lie in 1..{window - 1}, below the window, not {stride}")
    if len(token_ids) < 2:
        raise PromptError("a text of fewer than two tokens has nothing to predict: give a longer one")
    parts = list(strided_windows(token_ids, window, stride))
    own, other, divergence = NllAccumulator(), NllAccumulator(), KlAccumulator()
    for part, predicted in progress_bar(parts, description="perplexity", unit="windows", show=progress):
        targets = np.array(part[-predicted:])
        logits = _logits(session, part, predicted)
        own.add(logits, targets)
        if against is not None:
            expected = _logits(against, part, predicted)
            other.add(expected, targets)
            divergence.add(expected, logits)
    result: dict[str, Any] = {
        "precision": session.precision,
        "tokens": own.tokens,
        "window": window,
        "stride": stride,
        "perplexity": own.perplexity,
        "interval": _exp(mean_interval(own.token_nats)),
        "nats_per_token": own.mean_nats,
    }
    if against is not None:
        change = _exp(mean_interval(own.token_nats - other.token_nats))
        result |= {
            "against": against.precision,
            "against_perplexity": other.perplexity,
            "kl": divergence.kl,
            "top1_agreement": divergence.top1_agreement,
            "change": own.perplexity / other.perplexity - 1,
            "change_interval": change and (change[0] - 1, change[1] - 1),
        }
    return Perplexity(**result)


def _logits(session: DecoderSession, part: list[int], predicted: int) -> Logits:
    """Those that predict the last tokens of a window; what its very last token predicts is not computed."""
    return Logits(session.forward(part[:-1], session.new_cache(len(part)), num_logits_to_keep=predicted))


def _exp(ends: tuple[float, float] | None) -> tuple[float, float] | None:
    return ends and (float(np.exp(ends[0])), float(np.exp(ends[1])))


def _bounds(ends: tuple[float, float] | None, form: str) -> str:
    return "" if ends is None else f" ({ends[0]:{form}} to {ends[1]:{form}})"
