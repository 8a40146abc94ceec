"""How long the result of a filter or a method can become, told from what it is given, before it exists.

Most results are no longer than what was given, whose parts were measured when they were made. Filters and methods that
can multiply it have a rule here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

# The fields of a format: "%(name)-9.3f" and "{name:>9.3f}". Behind a bracket in a bracket anything may be a width, and
# `*` takes it from the arguments.
PERCENT_FIELD = re.compile(r"%(?:\([^()]*\))?[-#0 +]*(\d{0,20})(?:\.(\d{0,20}))?")
BRACE_FIELD = re.compile(r"\{([^{}]*)\}")
NESTED_FIELD = re.compile(r"%[^%\sa-zA-Z]*\*|%\([^()]*\(|\{[^{}]*\{")
NUMBER = re.compile(r"\d{1,20}")
PRINTED_SIZE = 30  # characters at most of what is no text, container or large integer
# Of `lipsum`: the characters of a word and a space, and how many words and paragraphs it makes unasked.
LOREM_CHARACTERS, LOREM_WORDS, LOREM_PARAGRAPHS = 10, 100, 5


@dataclass(frozen=True)
class Call:
    """A filter or a method in use.

    Attributes:
        value: what the filter is applied to, or the object of the method.
        args: what else it is given by place.
        options: what it is given by name.
    """

    value: Any
    args: Sequence[Any]
    options: Mapping[str, Any]

    @property
    def given(self) -> list[Any]:
        """Everything but the value."""
        return [*self.args, *self.options.values()]

    def numbers(self) -> list[int]:
        """The integers that are given, without their signs."""
        return [abs(entry) for entry in self.given if isinstance(entry, int)]

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """One argument, by its place or its name."""
        return self.args[place] if place < len(self.args) else self.options.get(name, default)


def result_size(name: str, call: Call) -> int:
    """An upper bound of the characters or items that a filter or a method makes; 0 where it multiplies nothing."""
    rule = RULES.get(name)
    return 0 if rule is None else rule(call)


def _size(value: Any) -> int:
    if isinstance(value, int):
        return PRINTED_SIZE + value.bit_length() // 3
    return len(value) if isinstance(value, Sized) else PRINTED_SIZE


def _padded(call: Call) -> int:
    return _size(call.value) + max(call.numbers(), default=0)


def _replaced(call: Call) -> int:
    value, old, new = call.value, call.argument(0, "old"), call.argument(1, "new")
    if not isinstance(value, bytes):
        value, old = str(value), str(old)
    return len(value) + (value.count(old) if isinstance(old, type(value)) else 0) * _size(new)


def _joined(call: Call) -> int:
    """Both `separator.join(items)` and `items | join(separator)`."""
    if isinstance(call.value, (str, bytes)) and call.args:
        separator, items = call.value, call.args[0]
    else:
        separator, items = call.argument(0, "d", ""), call.value
    return len(items) * _size(separator) if isinstance(items, Sized) else 0


def _formatted(call: Call) -> int:
    """Each field is at most as long as the longest thing given, or as a width says."""
    parts = [part for entry in call.given if isinstance(entry, Mapping) for part in entry.values()]
    parts += [part for entry in call.given if isinstance(entry, tuple) for part in entry]
    given = call.given + parts
    text = call.value.decode("latin-1") if isinstance(call.value, bytes) else str(call.value)
    if NESTED_FIELD.search(text):
        widths = [int(digits) for digits in NUMBER.findall(text)]
        widths += [abs(entry) for entry in given if isinstance(entry, int)]
    else:
        fields = [digits for field in PERCENT_FIELD.findall(text) for digits in field if digits]
        fields += [digits for field in BRACE_FIELD.findall(text) for digits in NUMBER.findall(field.partition(":")[2])]
        widths = [int(digits) for digits in fields]
    return len(text) + (text.count("%") + text.count("{")) * max([PRINTED_SIZE, *widths, *map(_size, given)])


def _translated(call: Call) -> int:
    table = call.args[0] if call.args and isinstance(call.args[0], Mapping) else {}
    return _size(call.value) * max((len(entry) for entry in table.values() if isinstance(entry, str)), default=1)


def _tabs_expanded(call: Call) -> int:
    tabs: int = call.value.count("\t" if isinstance(call.value, str) else b"\t")
    return _size(call.value) + tabs * max([8, *call.numbers()])


def _indented(call: Call) -> int:
    width = call.argument(0, "width", 4)
    return _size(call.value) + (str(call.value).count("\n") + 1) * (len(width) if isinstance(width, str) else width)


def _texts_between(call: Call) -> int:
    """What is given may come after each character."""
    return _size(call.value) * (1 + sum(len(entry) for entry in call.given if isinstance(entry, str)))


def _stripped(call: Call) -> int:
    """No size, but work: each character at the ends is sought among those given, which takes a nanosecond."""
    return _size(call.value) * _size(call.args[0]) // 100 if call.args else 0


def _lorem_ipsum(call: Call) -> int:
    return max([LOREM_PARAGRAPHS, *call.numbers()]) * max([LOREM_WORDS, *call.numbers()]) * LOREM_CHARACTERS


RULES: dict[str, Callable[[Call], int]] = {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill", "to_bytes", "batch", "slice", "round"), _padded),
    **dict.fromkeys(("format", "format_map"), _formatted),
    **dict.fromkeys(("wordwrap", "urlize"), _texts_between),
    **dict.fromkeys(("strip", "lstrip", "rstrip", "trim"), _stripped),
    "replace": _replaced,
    "join": _joined,
    "translate": _translated,
    "expandtabs": _tabs_expanded,
    "indent": _indented,
    "generate_lorem_ipsum": _lorem_ipsum,
}
