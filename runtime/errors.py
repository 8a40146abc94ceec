"""What the runtime says when something is wrong: each error names the fault and the remedy.

Every class also inherits the built-in error that a caller would expect, so `except ValueError` works too.
"""


class SmolTextError(Exception):
    """The base of every error that a user can cause, in every package: its message is meant for them."""


class BundleError(SmolTextError, ValueError):
    """A bundle whose files are missing, cut off, or disagree with each other."""


class BundleNotFoundError(BundleError, FileNotFoundError):
    """No bundle at the path, and no Hub repository of that name."""


class PromptError(SmolTextError, ValueError):
    """A prompt that cannot be continued: empty, too long, or not text."""


class ContextLengthError(PromptError):
    """A prompt that does not fit the model's context."""


class OptionError(SmolTextError, ValueError):
    """An option outside its range."""


class ChatTemplateError(SmolTextError, ValueError):
    """A chat template that is absent, or fails on these messages."""


class ConstraintError(SmolTextError, ValueError):
    """A JSON schema or regular expression that is not valid, not supported, or that no text satisfies."""


class NumericError(SmolTextError, ArithmeticError):
    """The model gave logits that are not numbers."""


class MissingDependencyError(SmolTextError, ImportError):
    """An optional package is needed for this and is not installed."""


class BatchError(SmolTextError, RuntimeError):
    """An output file that belongs to another batch or cannot be written, or a batch some of whose lines failed."""
