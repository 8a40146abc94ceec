"""The reference's greedy continuation of a prompt, and where a graph leaves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.comparison.reference import Reference
from runtime.engine.session import DecoderSession
from runtime.generation.generate import generate_step


@dataclass(frozen=True)
class GreedyDivergence:
    """The first token at which a graph goes another way.

    Attributes:
        step: how many tokens agree before it.
        expected: the reference's token id.
        found: the graph's.
        margin: the reference's logit of its own token less that of the other. A small one says that the reference
            itself could hardly choose; a large one, that the graph is wrong.
    """

    step: int
    expected: int
    found: int
    margin: float


@dataclass(frozen=True)
class Continuation:
    """What the reference writes, with its logits at every step, float32 [len(token_ids), vocab_size]."""

    prompt: list[int]
    token_ids: list[int]
    logits: np.ndarray

    @classmethod
    def of(cls, reference: Reference, prompt: Sequence[int], new_tokens: int) -> Continuation:
        """Ask the reference."""
        token_ids = reference.greedy(prompt, new_tokens)
        logits = reference.logits([*prompt, *token_ids[:-1]])
        return cls(list(prompt), token_ids, logits[len(prompt) - 1 :])

    def divergence(self, session: DecoderSession) -> GreedyDivergence | None:
        """Where a graph's own continuation leaves this one; None if nowhere."""
        found = generate_step(session, self.prompt, max_new_tokens=len(self.token_ids), stop_token_ids=())
        for step, (ours, (theirs, *_)) in enumerate(zip(self.token_ids, found, strict=True)):
            if ours != theirs:
                row = self.logits[step]
                return GreedyDivergence(step, ours, theirs, float(row[ours] - row[theirs]))
        return None
