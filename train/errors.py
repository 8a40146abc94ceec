"""The errors that a user of `train` can cause. Every message names the fault and the remedy."""

from __future__ import annotations

from runtime.errors import SmolTextError


class RecipeError(SmolTextError, ValueError):
    """A recipe that is missing, misspelt or contradicts itself."""


class DataError(SmolTextError, ValueError):
    """Training text or a tokenizer that is missing, empty, broken, or does not fit the model."""


class RunError(SmolTextError, RuntimeError):
    """A run folder that cannot be written, resumed or plotted, or a run whose loss is not finite."""


def require(holds: bool, message: str) -> None:
    """Raise RecipeError with the message unless the condition holds."""
    if not holds:
        raise RecipeError(message)
