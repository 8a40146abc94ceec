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
        if budget is None or not self._may_be_small or start + budget >= whole:
            stop = whole
        else:
            stop = start + max(SMALLEST_CHUNK, budget // SMALLEST_CHUNK * SMALLEST_CHUNK)
        begins_whole = start % self.chunk_tokens == 0
        if stop == whole and begins_whole and not self.never_single:
            return whole
        tail = self._tail(total) if self._may_be_small else total
        if start >= tail:
            return total
        if stop >= total and start % ATTENTION_BLOCK == 0 and total % ATTENTION_BLOCK != 1:
            return total
        return tail if tail - stop < SMALLEST_CHUNK else stop

    def bounds(self, total: int) -> list[int]:
        """Where the whole chunks of `total` new tokens begin, and where the last one ends."""
        bounds = [0]
        while bounds[-1] < total:
            bounds.append(self.end(bounds[-1], total))
        return bounds

    def pairs(self, total: int) -> list[tuple[int, int]]:
        """Start and end of each whole chunk."""
        return list(pairwise(self.bounds(total)))

    def _tail(self, total: int) -> int:
        """Where the last chunk begins, if the chunks before it are small ones."""
        last = (total - 1) % self.chunk_tokens + 1  # tokens of the last whole chunk
        if last % ATTENTION_BLOCK != 1:
            return (total - 1) // ATTENTION_BLOCK * ATTENTION_BLOCK
        if self.never_single:
            return max(0, total - 2)
        if last == 1:
            return total - 1
        # A last block of one row stays one, behind a whole block; any other last row stays in a block of several.
        return total - 1 - (self.query_block if last % self.query_block == 1 else ATTENTION_BLOCK)
