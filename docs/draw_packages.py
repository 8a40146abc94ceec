"""Draws docs/packages.md from the imports: which package, or module beside them, knows which.

    python docs/draw_packages.py            # writes docs/packages.md
    python docs/draw_packages.py --check    # fails where it is not what the imports say

Every import counts, those inside functions and those for a type checker alone too. An arrow that follows from two
others is left out of the picture, and of the picture alone.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "packages.md"
ROOTS = ("runtime", "model", "train", "export", "app")

Graph = dict[str, set[str]]


def modules() -> dict[str, Path]:
    """Dotted name -> file, of the product's modules."""
    found = {}
    for root in ROOTS:
        for path in sorted((REPOSITORY / root).rglob("*.py")):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The product's modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from (names & known.keys()) or {str(node.module)}


def module_graph() -> Graph:
    """Module -> those it imports. A package's own file is left out where it only hands on names of its modules."""
    known = modules()
    graph = {name: set(imported(path, known)) - {name} for name, path in known.items()}
    packages = {name for name, path in known.items() if path.name == "__init__.py"}
    return {name: targets - packages | (targets & {"model"}) for name, targets in graph.items() if name not in packages}


def room(module: str) -> str:
    """The package of a module, or the module itself where it stands beside packages."""
    parts = module.split(".")
    return ".".join(parts[:2])


def room_graph() -> Graph:
    """Room -> the rooms that it knows."""
    graph: Graph = {}
    for module, targets in module_graph().items():
        graph.setdefault(room(module), set()).update(room(target) for target in targets)
    return {name: targets - {name} for name, targets in graph.items()}


def circles(graph: Graph) -> list[list[str]]:
    """Each circle of a graph once, or at least one of those that share a node."""
    found, done = [], set()

    def visit(node: str, path: list[str]) -> None:
        if node in path:
            found.append(path[path.index(node) :])
        elif node not in done:
            for target in sorted(graph.get(node, ())):
                visit(target, [*path, node])
            done.add(node)

    for node in sorted(graph):
        visit(node, [])
    return found


def levels(graph: Graph) -> list[list[str]]:
    """The nodes by height: those that know none, those that know these alone, ..."""
    height: dict[str, int] = {}

    def of(node: str) -> int:
        if node not in height:
            height[node] = 1 + max((of(target) for target in graph.get(node, ())), default=-1)
        return height[node]

    for node in graph:
        of(node)
    return [sorted(node for node in graph if height[node] == level) for level in range(max(height.values()) + 1)]


def reduced(graph: Graph) -> Graph:
    """Without the arrows that follow from two others."""

    def reach(node: str) -> set[str]:
        targets = graph.get(node, set())
        return targets.union(*(reach(target) for target in targets))

    return {node: targets - set().union(*(reach(target) for target in targets)) for node, targets in graph.items()}


def folders() -> Graph:
    """Top folder -> those it knows."""
    graph: Graph = {root: set() for root in ROOTS}
    for name, targets in room_graph().items():
        graph[name.split(".", maxsplit=1)[0]] |= {target.split(".")[0] for target in targets}
    return {name: targets - {name} for name, targets in graph.items()}


def mermaid(graph: Graph) -> str:
    """A picture that GitHub draws: whoever knows stands above what it knows."""
    short = {node: node.partition(".")[2] or node for node in graph}
    lines = ["```mermaid", "graph TD"]
    lines += [f"    {node.replace('.', '_')}[{short[node]}]" for node in sorted(graph)]
    for node, targets in sorted(reduced(graph).items()):
        lines += [f"    {node.replace('.', '_')} --> {target.replace('.', '_')}" for target in sorted(targets)]
    return "\n".join([*lines, "```"])


INTRODUCTION = """\
Drawn from the imports by `python docs/draw_packages.py`; a test holds it to them, and to having no circle. An arrow
points at what is known; one that follows from two others is not drawn."""


def page() -> str:
    """docs/packages.md."""
    rooms = room_graph()
    parts = ["# Who knows whom", INTRODUCTION, "## The folders", mermaid(folders())]
    for root in ("runtime", "train", "export"):
        own = {name: {t for t in targets if t.startswith(f"{root}.")} for name, targets in rooms.items()}
        own = {name: targets for name, targets in own.items() if name.startswith(f"{root}.")}
        order = "\n".join(
            f"{number}. {', '.join(name.partition('.')[2] for name in level)}"
            for number, level in enumerate(levels(own), start=1)
        )
        parts += [f"## Inside `{root}/`", f"From the ground up:\n\n{order}", mermaid(own)]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Write the page, or compare it."""
    found = circles(module_graph()) + circles(room_graph())
    for circle in found:
        print("a circle of imports:", " -> ".join([*circle, circle[0]]), file=sys.stderr)
    if found:
        return 1
    if "--check" in sys.argv[1:]:
        is_current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page()
        print("current" if is_current else "docs/packages.md is not what the imports say: run docs/draw_packages.py")
        return 0 if is_current else 1
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
