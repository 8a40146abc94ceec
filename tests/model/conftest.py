"""What the tests of `model` share."""

from __future__ import annotations

from tests.export.conftest import one_torch_thread

__all__ = ["one_torch_thread"]
