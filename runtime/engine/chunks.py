"""Where a long prompt is cut into passes, such that the cuts change no bit of its logits.

A pass of one row rounds otherwise than one of several, and so does a block of one row in attention, which takes queries
in blocks (docs/decisions/0012). All other rows come out the same however a prompt is cut. So the only row to take care
of is the prompt's last one: small chunks must end as whole ones do.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

# Rows of a block of queries are a multiple of this.
ATTENTION_BLOCK = 16
# A small chunk is a multiple of this: two rows do not round as one does.
SMALLEST_CHUNK = 2


@dataclass(frozen=True)
class ChunkRule:
    """How one session's prompts are cut.

    Attributes:
        chunk_tokens: of a whole chunk.
        query_block: rows of a block of queries in attention.
        never_single: no row ever runs alone; chunk_tokens must then be a multiple of ATTENTION_BLOCK.
        is_divisible: whether less than a whole chunk may run without changing the logits.
    """

    chunk_tokens: int
    query_block: int
    never_single: bool = False
    is_divisible: bool = True

    @property
    def reusable_multiple(self) -> int:
        """Of a prompt, the first rows in multiples of this are the same bits in every prompt that begins like it."""
        return ATTENTION_BLOCK if self._may_be_small else self.chunk_tokens

    @property
    def _may_be_small(self) -> bool:
        return self.is_divisible and self.chunk_tokens % ATTENTION_BLOCK == 0

    def end(self, start: int, total: int, budget: int | None = None) -> int:
        """Where the chunk ends that begins at `start` of `total` tokens.

        Args:
            start: 0, where a chunk ended before, or a multiple of `reusable_multiple`.
            total: tokens, counted from where the first whole chunk begins.
            budget: run about this many at most; None for a whole chunk.
        """
        whole = min((start // self.chunk_tokens + 1) * self.chunk_tokens, total)
        if not self._may_be_small:
            return whole
        stop = whole
        if budget is not None and start + budget < whole:
            stop = start + max(SMALLEST_CHUNK, budget // SMALLEST_CHUNK * SMALLEST_CHUNK)
        if stop == whole and start % self.chunk_tokens == 0 and not self.never_single:
            return whole
        lone = self._lone_block(total)
        if lone is not None:
            return total if start >= lone else min(stop, lone)
        if total - stop > 1:
            return stop
        # The last rows must not leave one for a block, or for a pass, of its own.
        rows = total - start
        return total - SMALLEST_CHUNK if rows > 1 and rows % ATTENTION_BLOCK == 1 else total

    def bounds(self, total: int) -> list[int]:
        """Where the whole chunks of `total` new tokens begin, and where the last one ends."""
        bounds = [0]
        while bounds[-1] < total:
            bounds.append(self.end(bounds[-1], total))
        return bounds

    def pairs(self, total: int) -> list[tuple[int, int]]:
        """Start and end of each whole chunk."""
        return list(pairwise(self.bounds(total)))

    def _lone_block(self, total: int) -> int | None:
        """Where the last pass must begin for the last row to be in a block of its own, as in whole chunks; or None."""
        last = (total - 1) % self.chunk_tokens + 1  # rows of the last whole chunk
        if self.never_single or last % self.query_block != 1:
            return None
        return total - 1 if last == 1 else total - 1 - self.query_block
