"""Stop strings: found in a stream of text, and never let through, not even split over pieces."""

from __future__ import annotations

from collections.abc import Sequence

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
        self.found = False

    def push(self, text: str) -> str:
        """The text that may be shown now. Sets `found` at a stop string, which is cut off with all after it."""
        if not self._stops:
            return text
        pending = self._held + text
        found = [(start + len(stop), start) for stop in self._stops if (start := pending.find(stop)) >= 0]
        if found:
            _, start = min(found)  # of those that end together, the longest
            self.found, self._held = True, ""
            return pending[:start]
        kept = max(self._overlap(pending, stop) for stop in self._stops)
        self._held = pending[len(pending) - kept :]
        return pending[: len(pending) - kept]

    def flush(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """The longest end of `text` with which `stop` begins."""
        longest = min(len(text), len(stop) - 1)
        return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
