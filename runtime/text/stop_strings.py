"""Stop strings: found in a stream of text, and never let through, not even split over pieces."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from operator import not_

from runtime.errors import OptionError


class StopStrings:
    """Passes text on until one of the stop strings appears: the one that is complete first, however the text is cut.

    Text that may be the beginning of a stop string is held back until it is known not to be.

    Raises:
        OptionError: an empty stop string, which would stop everywhere.
    """

    def __init__(self, stop_strings: Sequence[str]) -> None:
        if any(not stop for stop in stop_strings):
            raise OptionError("a stop string must not be empty")
        self._stops = tuple(stop_strings)
        self._held = ""
        self._is_hidden: list[bool] = []  # of each character held; empty where all are shown
        self.found = False

    def push(self, text: str, hidden: str = "") -> str:
        """The text that may be shown now. Sets `found` at a stop string, which is cut off with all after it.

        Args:
            text: the next piece.
            hidden: text after it that readers do not see and stop strings do: a special token's.
        """
        if not self._stops:
            return text
        pending = self._held + text + hidden
        is_hidden = self._is_hidden
        if hidden or is_hidden:
            is_hidden = (is_hidden or [False] * len(self._held)) + [False] * len(text) + [True] * len(hidden)
        found = [(start + len(stop), start) for stop in self._stops if (start := pending.find(stop)) >= 0]
        if found:
            _, end = min(found)  # of those that end together, the longest
            self.found, self._held, self._is_hidden = True, "", []
        else:
            end = len(pending) - max(self._overlap(pending, stop) for stop in self._stops)
            self._held, self._is_hidden = pending[end:], is_hidden[end:]
        return _shown(pending[:end], is_hidden)

    def flush(self) -> str:
        """The text that was held back and turned out to be no stop string."""
        held = _shown(self._held, self._is_hidden)
        self._held, self._is_hidden = "", []
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """The longest end of `text` with which `stop` begins."""
        longest = min(len(text), len(stop) - 1)
        return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)


def _shown(text: str, is_hidden: Sequence[bool]) -> str:
    return "".join(compress(text, map(not_, is_hidden))) if is_hidden else text
