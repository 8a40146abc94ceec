"""How tokens are drawn: the options, their defaults and their ranges.

Stands apart from `sampling.py` so that a command line can show the defaults without loading NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import OptionError


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are drawn. Names, meanings and order are transformers'.

    Attributes:
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: keep exactly the k likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of likeliest tokens whose probabilities sum to at least this; 1 keeps all.
        min_p: drop tokens less likely than this share of the likeliest one's probability; 0 drops none.
        repetition_penalty: see `logits_processors.repetition_penalty`; 1 is off.
        seed: the same seed gives the same tokens; None draws a new one.

    Raises:
        OptionError: a value outside its range.
    """

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _require(0 <= self.temperature < float("inf"), "temperature", "0 (greedy) or above", self.temperature)
        _require(self.top_k >= 0, "top_k", "0 (off) or above", self.top_k)
        _require(0 < self.top_p <= 1, "top_p", "above 0 and at most 1 (off)", self.top_p)
        _require(0 <= self.min_p < 1, "min_p", "at least 0 (off) and below 1", self.min_p)
        _require(0 < self.repetition_penalty < float("inf"), "repetition_penalty", "above 0", self.repetition_penalty)
        _require(self.seed is None or self.seed >= 0, "seed", "0 or above", self.seed)


def _require(holds: bool, name: str, allowed: str, value: object) -> None:
    if not holds:  # NaN fails every comparison, so it ends here too
        raise OptionError(f"{name} must be {allowed}, not {value}")
