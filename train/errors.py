"""What `train` says when its input is wrong. Every message names the fault and the remedy."""

from __future__ import annotations

from model.errors import ModelError


class RecipeError(ModelError, ValueError):
    """A recipe that is missing, misspelt or contradicts itself."""


class DataError(ModelError, ValueError):
    """Training text or a tokenizer that is missing, empty, broken, or does not fit the model."""


class RunError(ModelError, RuntimeError):
    """A run folder that cannot be written, resumed or plotted, or a run whose loss ceased to be a number."""


def require(holds: bool, message: str) -> None:
    """Raise RecipeError with the message unless the condition holds."""
    if not holds:
        raise RecipeError(message)
