"""What is timed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """A prefill of `prompt_tokens`, then decodes behind it."""

    name: str
    prompt_tokens: int
    new_tokens: int
    timed: str  # "prefill_seconds" or "decode_seconds"

    def rate(self, seconds: float) -> float:
        """Tokens per second."""
        return (self.prompt_tokens if self.timed == "prefill_seconds" else self.new_tokens) / seconds


WORKLOADS = (
    Workload("prefill 512", 512, 1, "prefill_seconds"),
    Workload("decode @16", 16, 64, "decode_seconds"),
    Workload("decode @1024", 1024, 64, "decode_seconds"),
)
