"""What `export` says when it cannot do what was asked."""

from model.errors import ModelError


class ExportError(ModelError, ValueError):
    """An option or a checkpoint that cannot be exported, or a bundle that cannot be compared."""
