"""Guesses from the text itself: what followed the last few tokens when they occurred before.

Prompts that are quoted, edited or summarized repeat long stretches of themselves, and looking one up costs nothing
(prompt lookup decoding: Saxena, https://github.com/apoorvumang/prompt-lookup-decoding, 2023). How many guesses are
worth checking depends on how often such guesses come true, so they are scored as the text goes on, whether they were
checked or not.
"""

from __future__ import annotations

from collections.abc import Iterable

# Tokens that must have occurred before: shorter matches are chance.
SHORTEST_MATCH = 2
# Matches of this length and longer are taken to be equally good.
LONGEST_MATCH = 12
MOST_GUESSES = 15
# Cost of one more token in a pass, in passes of a single one. Measured: 0.05 to 0.25 for all precisions, at the 135M
# shape and on models a hundred times smaller (docs/decisions/0012); the dearest loses least where guesses are wrong.
ROW_COST = 0.25
# The weight of what is assumed before the first guess, in guesses; and the rate at which older ones fade.
PRIOR_WEIGHT, FADING = 4.0, 0.95
# What guesses must promise, in tokens for the cost of one: their scores are known to a few tenths only.
LEAST_GAIN = 1.15
# Below this probability of the first guess there is no such gain, even if all the others came true with it.
HOPELESS = (LEAST_GAIN * (1 + MOST_GUESSES * ROW_COST) - 1) / MOST_GUESSES


class PromptLookup:
    """Guesses how a sequence goes on.

    Args:
        token_ids: what is there already.
    """

    def __init__(self, token_ids: Iterable[int] = ()) -> None:
        self._token_ids: list[int] = []
        # (the last SHORTEST_MATCH tokens) -> the place after their last occurrence.
        self._places: dict[tuple[int, ...], int] = {}
        self._source: int | None = None  # the place that the next token is guessed from
        self._match = 0  # tokens before it that agree with our last ones
        self._scores = {length: _Score(length) for length in range(LONGEST_MATCH + 1)}
        for token_id in token_ids:
            self.push(token_id)

    def push(self, token_id: int) -> None:
        """Add the token that came."""
        ids = self._token_ids
        hit = False
        if self._source is not None:
            hit = ids[self._source] == token_id
            self._scores[self._match].count(hit)
        ids.append(token_id)
        key = tuple(ids[-SHORTEST_MATCH:])
        if hit and self._source is not None:  # go on along the same earlier stretch
            self._source, self._match = self._source + 1, min(self._match + 1, LONGEST_MATCH)
        else:
            place = self._places.get(key)
            if place is None and self._source is not None and self._match >= SHORTEST_MATCH:
                place = self._source + 1  # a copy with one token changed goes on behind it
            self._source = place
            self._match = self._matching(place) if place is not None else 0
        self._places[key] = len(ids)

    def guesses(self, limit: int = MOST_GUESSES) -> list[int]:
        """The next tokens, as many as are worth a check, at most `limit`; none where a plain step is the better bet."""
        if self._source is None or limit < 1:
            return []
        text = self._token_ids[self._source : self._source + MOST_GUESSES]
        # A text that repeats itself goes on from its own guesses.
        return [text[place % len(text)] for place in range(min(self._worthwhile(), limit))]

    def _worthwhile(self) -> int:
        """How many guesses give most tokens for the cost of their pass.

        If each guess comes true with probability p given those before it, k of them give 1 + p + ... + p^k tokens for
        1 + k * ROW_COST. A guess further on stands on a longer match, so its own p is that of the longer match.
        """
        best, best_rate = 0, LEAST_GAIN
        expected, all_true = 1.0, 1.0
        if self._scores[self._match].probability < HOPELESS:
            return 0  # the usual case in new text, and this is asked at every token
        for count in range(1, MOST_GUESSES + 1):
            all_true *= self._scores[min(self._match + count - 1, LONGEST_MATCH)].probability
            expected += all_true
            rate = expected / (1 + count * ROW_COST)
            if rate > best_rate:
                best, best_rate = count, rate
        return best

    def _matching(self, place: int) -> int:
        """How many tokens before `place` agree with our last ones, counted to LONGEST_MATCH."""
        ids = self._token_ids
        length = 0
        while length < min(LONGEST_MATCH, place) and ids[place - 1 - length] == ids[-1 - length]:
            length += 1
        return length


class _Score:
    """How often a guess after a match of some length has come true."""

    def __init__(self, match_length: int) -> None:
        # Before anything is known: two tokens that recur are followed by the same third one now and then, twelve nearly
        # always.
        self._hits = PRIOR_WEIGHT * (match_length + 1) / (match_length + 3)
        self._tries = PRIOR_WEIGHT

    def count(self, hit: bool) -> None:
        self._hits = FADING * self._hits + hit
        self._tries = FADING * self._tries + 1

    @property
    def probability(self) -> float:
        return self._hits / self._tries
