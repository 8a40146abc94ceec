"""What `model` says when its input is wrong. Every message names the fault and the remedy."""

from runtime.errors import SmolTextError


class ModelError(SmolTextError):
    """The base of every error that a user of `model`, `train` or `export` can cause."""


class ConfigError(ModelError, ValueError):
    """A configuration that is incomplete, contradicts itself, or asks for what we cannot honour."""


class CheckpointError(ModelError, ValueError):
    """A checkpoint folder whose files are missing, cut off, or disagree with its config."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """No checkpoint at the path, and no Hub repository of that name."""
