"""What templates may make: namespaces and dicts, without a way to what belongs to others."""

from __future__ import annotations

from typing import Any

from runtime.errors import ChatTemplateError


def namespace_class() -> Any:
    """The class of `namespace()`."""
    from jinja2.utils import Namespace

    class ShortNamespace(Namespace):
        """Prints in constant size: a namespace may hold others."""

        def __init__(*args: Any, **names: Any) -> None:  # as Jinja's: a template may say namespace(self=1)
            Namespace.__init__(*args, **names)
            for name in dict(*args[1:], **names):
                _require_public(name)

        def __setitem__(self, name: str, value: Any) -> None:
            _require_public(name)
            super().__setitem__(name, value)

        def __repr__(self) -> str:
            return "<Namespace>"

    return ShortNamespace


class PlainDict:
    """`dict(...)` and `dict.fromkeys(...)` for templates."""

    def __call__(self, *args: Any, **names: Any) -> dict[Any, Any]:
        """A dict of pairs and of names."""
        return dict(*args, **names)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """A dict of keys with one value."""
        return dict.fromkeys(*args)


def _require_public(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise ChatTemplateError(f"the chat template sets {name!r} of a namespace, which it may not")
