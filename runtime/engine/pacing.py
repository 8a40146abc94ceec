"""How much of a prompt may run between two steps of sequences that decode, so that nobody waits long for a token."""

from __future__ import annotations

# Until the first chunk is measured: what costs about two steps of four rows on two cores.
FIRST_BUDGET_TOKENS = 16
# What one more measurement counts beside those before it.
NEWEST = 0.25


class Pacing:
    """Measures steps and chunks as they run.

    Args:
        max_pause_steps: a chunk should take about this many steps at most.
    """

    def __init__(self, max_pause_steps: float) -> None:
        self._max_pause_steps = max_pause_steps
        self._step_seconds: float | None = None
        self._token_seconds: float | None = None  # of a prompt's token, in chunks as they were lately

    @property
    def budget_tokens(self) -> int:
        """Tokens of a prompt that may run now."""
        if self._step_seconds is None or not self._token_seconds:
            return FIRST_BUDGET_TOKENS
        return int(self._max_pause_steps * self._step_seconds / self._token_seconds)

    def decoded(self, seconds: float) -> None:
        """A step took this long."""
        self._step_seconds = _smoothed(self._step_seconds, seconds)

    def prefilled(self, tokens: int, seconds: float) -> None:
        """A chunk took this long."""
        if tokens > 0:
            self._token_seconds = _smoothed(self._token_seconds, seconds / tokens)


def _smoothed(before: float | None, now: float) -> float:
    return now if before is None else (1 - NEWEST) * before + NEWEST * now
