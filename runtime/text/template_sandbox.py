"""A Jinja environment for templates from strangers: no access to Python, and a bound on work and size.

Jinja's own sandbox hides attributes that begin with an underscore and refuses changes to what goes in. It does not end
a loop in a loop in a loop, a macro that calls itself twice, or a text that doubles a hundred times. So each turn of a
loop, each call and each filter is counted here, and what grows is measured.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from contextvars import ContextVar
from functools import wraps
from typing import Any

from runtime.errors import ChatTemplateError, MissingDependencyError

# A chat of a thousand messages takes some 20,000 steps. The seconds are this thread's own on the CPU.
MAX_STEPS, MAX_SECONDS, STEPS_A_LOOK = 1_000_000, 5.0, 64
# Characters of a text, or of what a list would be as one; the digits of a number times a constant.
MAX_SIZE = 10_000_000
MAX_PRODUCT = 100_000_000  # of the sizes of all that a call or a filter is given
CONTAINERS = (list, tuple, dict, KeysView, ValuesView, ItemsView)
WIDE_FORMAT = re.compile(r"\d{5}")  # as in %99999999d


class Budget:
    """What one rendering may still do."""

    def __init__(self) -> None:
        self._steps = 0
        self._end_seconds = time.thread_time() + MAX_SECONDS
        self._weights: dict[int, tuple[Any, int]] = {}  # by id; with the object, so that its id stays its own

    def step(self) -> None:
        """Count a step. Raises ChatTemplateError where there were too many, or they took too long."""
        self._steps += 1
        is_late = self._steps % STEPS_A_LOOK == 0 and time.thread_time() > self._end_seconds
        if is_late or self._steps > MAX_STEPS:
            raise ChatTemplateError("the chat template does too much work: does it loop for ever?")

    def weigh(self, value: Any) -> int:
        """About how many characters a value is as text; what a list holds twice counts twice, and is weighed once."""
        if isinstance(value, (str, bytes)):
            return len(value)
        if not isinstance(value, CONTAINERS):
            return 1
        if id(value) in self._weights:
            return self._weights[id(value)][1]
        parts = [*value, *value.values()] if isinstance(value, dict) else [*value]
        weight = 1 + sum(map(self.weigh, parts))
        if any(isinstance(part, CONTAINERS) for part in parts):  # others are weighed again as fast, and need no place
            self._weights[id(value)] = value, weight
        return weight


# Of the rendering under way in this thread: a template is compiled once, and threads may share it.
_budget: ContextVar[Budget] = ContextVar("budget")


def render(template: Any, names: dict[str, Any]) -> str:
    """The text of a template of `make_environment`. Raises ChatTemplateError at the bounds, and what it raises."""
    token = _budget.set(Budget())
    try:
        pieces, size = [], 0
        for piece in template.generate(names):
            _budget.get().step()
            pieces.append(piece)
            size += len(piece)
            _require_size(size)
        return "".join(pieces)
    finally:
        _budget.reset(token)


def make_environment() -> Any:
    """A jinja2 environment with transformers' settings and extensions, and the bounds.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    try:
        from jinja2 import sandbox
        from jinja2.utils import Namespace
    except ImportError:
        raise MissingDependencyError("chat templates need jinja2: pip install jinja2") from None

    class ShortNamespace(Namespace):
        """Jinja's own would be as long as all that it holds, and it may hold others."""

        def __repr__(self) -> str:
            return "<Namespace>"

    class Sandbox(sandbox.ImmutableSandboxedEnvironment):
        """Raises where Jinja's own would go on with nothing, and measures."""

        code_generator_class = _bounded_code()
        intercepted_binops = frozenset(["+", "*", "**", "%"])

        def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
            kind = type(obj).__name__
            raise ChatTemplateError(f"the chat template reaches for {attribute!r} of a {kind}, which it may not")

        def call(self, context: Any, called: Any, /, *args: Any, **options: Any) -> Any:
            owner = getattr(getattr(called, "__wrapped__", called), "__self__", None)  # Jinja wraps str.format
            _before(getattr(called, "__name__", ""), (owner, *args, *options.values()))
            return _measured(super().call(context, called, *args, **options))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _before_operator(operator, left, right)
            return _measured(super().call_binop(context, operator, left, right))

    # Not optimized: what is constant would be computed while it compiles, without a budget.
    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], optimized=False)
    environment.filters = {name: bounded_filter(name, call) for name, call in environment.filters.items()}
    environment.globals["namespace"] = ShortNamespace
    environment.filters |= {"_turns": _turns, "_measured": _measured}
    return environment


def _bounded_code() -> Any:
    """A code generator that sends what loops go through, and what grows in place, through filters of ours."""
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
    budget = _budget.get()
    for item in items:
        budget.step()
        yield item


def bounded_filter(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that counts and is measured."""

    @wraps(call)
    def bounded(*args: Any, **options: Any) -> Any:
        _before(name, (*args, *options.values()))
        return _measured(call(*args, **options))

    return bounded


def _before(name: str, operands: Iterable[Any]) -> None:
    """Count a call or a filter, and refuse one whose result could be beyond all bounds."""
    _budget.get().step()
    product = 1
    for operand in operands:
        if isinstance(operand, (str, list, tuple, int)):
            product *= _size(operand)
        if name.startswith("format") and isinstance(operand, str):
            _require(not WIDE_FORMAT.search(operand))
    _require(product <= MAX_PRODUCT)


def _before_operator(operator: str, left: Any, right: Any) -> None:
    are_numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
    if operator == "**":
        _require(are_numbers and abs(right) <= 64)
    elif operator == "*" and not are_numbers:
        _require(_size(left) * _size(right) <= MAX_SIZE)
    elif operator == "%" and isinstance(left, str):
        _before("format", (left, right))


def _measured(value: Any) -> Any:
    if isinstance(value, int):
        _require_size(value.bit_length())
    elif isinstance(value, (str, bytes, *CONTAINERS)):
        _require_size(_budget.get().weigh(value))
    return value


def _size(value: Any) -> int:
    return max(1, abs(value) if isinstance(value, int) else len(value) if hasattr(value, "__len__") else 1)


def _require_size(size: int) -> None:
    _require(size <= MAX_SIZE)


def _require(holds: bool) -> None:
    if not holds:
        raise ChatTemplateError("the chat template makes something far too large for a prompt")
