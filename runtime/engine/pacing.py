"""How much of a prompt may run between two steps of sequences that decode, so that nobody waits long for a token.

What a chunk costs depends on the machine and the depth, and is not proportional to its length: a pass reads all
weights and the whole cache for two tokens as for twenty. So nothing is predicted: chunks shrink when one took too long,
and grow again while they do not.

Where more sequences wait for their first token than decode, chunks may take as many times longer. Otherwise few would
decode while many wait, each step would bring few tokens, and the line would never end.
"""

from __future__ import annotations

# Less than two steps of four rows on two cores.
FIRST_BUDGET_TOKENS = 8
LEAST_BUDGET_TOKENS = 2
# What one more step counts beside those before it.
NEWEST = 0.25
# The most that a budget changes after one chunk: at once down, slowly up.
SHRINK, GROW = 0.5, 1.2


class Pacing:
    """Measures steps and the chunks between them.

    Args:
        max_pause_steps: a chunk should take about this many steps at most.
    """

    def __init__(self, max_pause_steps: float) -> None:
        self._max_pause_steps = max_pause_steps
        self._step_seconds: float | None = None
        self._budget = float(FIRST_BUDGET_TOKENS)

    def budget_tokens(self, share: float = 1.0) -> int:
        """Tokens of a prompt that may run now.

        Args:
            share: sequences that wait for their first token over those that decode, and 1 at least.
        """
        return int(self._budget * share)

    def decoded(self, seconds: float) -> None:
        """A step took this long."""
        before = self._step_seconds
        self._step_seconds = seconds if before is None else (1 - NEWEST) * before + NEWEST * seconds

    def paused(self, tokens: int, seconds: float, share: float = 1.0) -> None:
        """A chunk of this many tokens took this long, when it might take `share` times the usual pause."""
        if self._step_seconds is None:
            return
        change = self._max_pause_steps * share * self._step_seconds / max(seconds, 1e-9)
        # A prompt's last tokens tell nothing of a longer chunk; chunks are of even length.
        if change < 1 or tokens >= self.budget_tokens(share) - 1:
            self._budget = max(LEAST_BUDGET_TOKENS, self._budget * min(GROW, max(SHRINK, change)))
