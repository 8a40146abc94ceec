"""A Jinja environment for untrusted templates: no access to Python, and bounds on work and size.

Jinja's own sandbox hides attributes that begin with an underscore and refuses to change its input. It does not stop a
loop in a loop in a loop, a macro that calls itself twice, or a text that doubles a hundred times. This environment
counts each turn of a loop, each call and each filter, and measures every value that grows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from types import GeneratorType
from typing import Any

from runtime.errors import ChatTemplateError, MissingDependencyError
from runtime.text.template_globals import PlainDict, namespace_class
from runtime.text.template_growth import Call, result_size

# A chat of a thousand messages takes some 20,000 steps. The seconds are this thread's own on the CPU.
MAX_STEPS, MAX_SECONDS, STEPS_A_LOOK = 1_000_000, 5.0, 64
# Characters of a text, or of what a list would be as one; the digits of a number times a constant.
MAX_SIZE = 10_000_000
CONTAINERS = (list, tuple, dict, KeysView, ValuesView, ItemsView)


@dataclass(frozen=True)
class Rendered:
    """What a template wrote.

    Attributes:
        text: of the whole template.
        blocks: of each `{% generation %}` block, the length of the text before it, and its body.
    """

    text: str
    blocks: list[tuple[int, str]]

    def generation_spans(self) -> list[tuple[int, int]]:
        """The characters [start, end) of the text that stand in generation blocks, in their order.

        Raises:
            ChatTemplateError: a block stands in a macro or a `{% set %}` block, so that its place cannot be told.
        """
        spans: list[tuple[int, int]] = []
        for start, body in self.blocks:
            end = start + len(body)
            if self.text[start:end] != body or (spans and start < spans[-1][1]):
                raise ChatTemplateError(
                    "the chat template has {% generation %} in a macro or a {% set %} block: its place cannot be told"
                )
            spans.append((start, end))
        return spans


class Budget:
    """The work that one rendering may still do."""

    def __init__(self) -> None:
        self._steps = 0
        self._end_seconds = time.thread_time() + MAX_SECONDS
        self._weights: dict[int, tuple[Any, int]] = {}  # by id; with the object, so that its id stays its own

    def step(self) -> None:
        """Count a step. Raises ChatTemplateError after too many steps or too much time."""
        self._steps += 1
        is_late = self._steps % STEPS_A_LOOK == 0 and time.thread_time() > self._end_seconds
        if is_late or self._steps > MAX_STEPS:
            raise ChatTemplateError("the chat template does too much work: does it loop for ever?")

    def weigh(self, value: Any) -> int:
        """About the length of a value as text. A part that a list holds twice counts twice, and is weighed once."""
        if isinstance(value, (str, bytes)):
            return len(value)
        if not isinstance(value, CONTAINERS):
            return 1
        if id(value) in self._weights:
            return self._weights[id(value)][1]
        parts = [*value, *value.values()] if isinstance(value, dict) else [*value]
        weight = 1 + sum(map(self.weigh, parts))
        if any(isinstance(part, CONTAINERS) for part in parts):  # a flat container is weighed again as fast
            self._weights[id(value)] = value, weight
        return weight


class Rendering:
    """One rendering under way: its budget, what it has written, and its generation blocks as (start, body)."""

    def __init__(self) -> None:
        self.budget = Budget()
        self.size = 0
        self.blocks: list[tuple[int, str]] = []


# A template is compiled once and may be rendered by several threads: each rendering keeps its state here.
_rendering: ContextVar[Rendering] = ContextVar("rendering")


def render(template: Any, names: dict[str, Any]) -> Rendered:
    """Render a template of `make_environment`.

    Raises:
        ChatTemplateError: the template exceeds the bounds.
        Exception: whatever the template itself raises.
    """
    rendering = Rendering()
    token = _rendering.set(rendering)
    try:
        pieces = []
        for piece in template.generate(names):
            rendering.budget.step()
            pieces.append(piece)
            rendering.size += len(piece)
            require_size(rendering.size)
        return Rendered("".join(pieces), rendering.blocks)
    finally:
        _rendering.reset(token)


def make_environment() -> Any:
    """A jinja2 environment with transformers' settings, extensions and restrictions, and the bounds.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    try:
        from jinja2 import ext
    except ImportError:
        raise MissingDependencyError("chat templates need jinja2: pip install jinja2") from None

    # Not optimized: what is constant would be computed while it compiles, without a budget.
    environment = _sandbox()(
        trim_blocks=True, lstrip_blocks=True, extensions=[_generation_tag(), ext.LoopControlExtension], optimized=False
    )
    environment.filters = {name: bounded_filter(name, call) for name, call in environment.filters.items()}
    # Not the class `dict`, by whose methods a template could change what it is given.
    environment.globals |= {"namespace": namespace_class(), "dict": PlainDict()}
    environment.filters |= {"_turns": _turns, "_measured": _measured}
    return environment


def _sandbox() -> Any:
    """Jinja's sandbox class, made stricter."""
    from jinja2 import sandbox

    class Sandbox(sandbox.ImmutableSandboxedEnvironment):
        """Raises where Jinja's own goes on with an undefined value, and measures."""

        code_generator_class = _bounded_code()
        intercepted_binops = frozenset(["+", "*", "**", "%"])

        @staticmethod
        def concat(pieces: Iterable[str]) -> str:
            """Joins the output of a macro or a block; it is measured before it exists."""
            pieces = list(pieces)
            require_size(sum(map(len, pieces)))
            return "".join(pieces)

        def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
            kind = type(obj).__name__
            raise ChatTemplateError(f"the chat template reaches for {attribute!r} of a {kind}, which it may not")

        def call(self, context: Any, called: Any, /, *args: Any, **options: Any) -> Any:
            owner = getattr(getattr(called, "__wrapped__", called), "__self__", None)  # Jinja wraps str.format
            name = getattr(called, "__name__", "")
            args = _with_items(name, args)
            _before(name, Call(owner, args, options))
            return _measured(super().call(context, called, *args, **options))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _before_operator(operator, left, right)
            return _measured(super().call_binop(context, operator, left, right))

    return Sandbox


def _generation_tag() -> Any:
    """The extension for `{% generation %}`."""
    from jinja2 import ext, nodes

    class GenerationTag(ext.Extension):
        """`{% generation %}...{% endgeneration %}` renders its body and notes its place, as transformers' tracker."""

        tags = {"generation"}  # noqa: RUF012 - Jinja's name

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_note"), [], [], body).set_lineno(line)

        def _note(self, caller: Callable[[], str]) -> str:
            rendering = _rendering.get()
            start, body = rendering.size, caller()
            rendering.blocks.append((start, body))
            return body

    return GenerationTag


def _bounded_code() -> Any:
    """A code generator that sends the items of loops, and the values that grow in place, through filters of ours."""
    from jinja2 import nodes
    from jinja2.compiler import CodeGenerator

    def filtered(node: Any, name: str) -> Any:
        return nodes.Filter(node, name, [], [], None, None)

    def measured(value: Any) -> Any:
        grows = isinstance(value, (nodes.Concat, nodes.List, nodes.Dict)) or (
            isinstance(value, nodes.Tuple) and value.ctx == "load"
        )
        return filtered(value, "_measured") if grows else value

    class BoundedCode(CodeGenerator):
        """Changes the tree before it becomes code."""

        def visit_Template(self, node: Any, frame: Any = None) -> None:  # noqa: N802 - Jinja's name
            for inner in list(node.find_all(nodes.Node)):
                if isinstance(inner, nodes.For):
                    inner.iter = filtered(inner.iter, "_turns")
                elif isinstance(inner, nodes.AssignBlock):
                    inner.filter = filtered(inner.filter, "_measured")
                for name, value in inner.iter_fields():
                    setattr(inner, name, [*map(measured, value)] if isinstance(value, list) else measured(value))
            super().visit_Template(node, frame)

    return BoundedCode


def _turns(items: Iterable[Any]) -> Iterator[Any]:
    budget = _rendering.get().budget
    for item in items:
        budget.step()
        yield item


def _measured_items(items: Iterable[Any]) -> Iterator[Any]:
    """The items of a generator, of which a filter or a call may make a list before we see it."""
    budget, total = _rendering.get().budget, 0
    for item in items:
        budget.step()
        total += budget.weigh(item)
        require_size(total)
        yield item


def measured_pieces(pieces: Iterable[str]) -> Iterator[str]:
    """Pieces of a text, up to the bound of its size."""
    total = 0
    for piece in pieces:
        total += len(piece)
        require_size(total)
        yield piece


def bounded_filter(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that counts as a step and whose result is measured."""
    first = int(hasattr(call, "jinja_pass_arg"))  # of the arguments that are the template's

    @wraps(call)
    def bounded(*args: Any, **options: Any) -> Any:
        args = _with_items(name, args)
        _before(name, Call(args[first] if len(args) > first else None, args[first + 1 :], options))
        return _measured(call(*args, **options))

    return bounded


def _with_items(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What is to be joined as a list, whose length is known."""
    if name != "join":
        return args
    return tuple([*entry] if isinstance(entry, GeneratorType) else entry for entry in args)


def _before(name: str, call: Call) -> None:
    """Count a call or a filter, and refuse one whose result could exceed all bounds."""
    _rendering.get().budget.step()
    require_size(result_size(name, call))


def _before_operator(operator: str, left: Any, right: Any) -> None:
    are_numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
    if operator == "**":
        _require(are_numbers and abs(right) <= 64)
    elif operator == "*" and not are_numbers:
        _require(_size(left) * _size(right) <= MAX_SIZE)
    elif operator == "%" and isinstance(left, str):
        _before("format", Call(left, [right], {}))


def _measured(value: Any) -> Any:
    if isinstance(value, GeneratorType):
        return _measured_items(value)
    if isinstance(value, int):
        require_size(value.bit_length())
    elif isinstance(value, (str, bytes, *CONTAINERS)):
        require_size(_rendering.get().budget.weigh(value))
    return value


def _size(value: Any) -> int:
    return max(1, abs(value) if isinstance(value, int) else len(value) if hasattr(value, "__len__") else 1)


def require_size(size: int) -> None:
    """Raises ChatTemplateError where a text or a list would be too long."""
    _require(size <= MAX_SIZE)


def _require(holds: bool) -> None:
    if not holds:
        raise ChatTemplateError("the chat template makes something far too large for a prompt")
