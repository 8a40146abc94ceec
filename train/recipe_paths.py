"""The paths in a recipe, made absolute, so that a recipe works from every folder and its run resumes from every folder.

A path in a recipe's file begins where the file is; a path in an override begins where the command was given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PATHS = (("data", "root"), ("data", "tokens"), ("tokenizer", "chat_template"))
PATHS_OR_HUB_IDS = (
    ("tokenizer", "path"),
    ("model", "init_from"),
    ("preference", "reference"),
    ("distillation", "teacher"),
)
TEXT = re.compile(r"data\.(source|sources|root)\s*=")


def resolve_paths(values: dict[str, Any], folder: Path) -> None:
    """Make the paths in a recipe's tables absolute, in place. Values of a wrong type are left as they are.

    Args:
        values: nested tables.
        folder: where relative paths begin.
    """
    for section, key in PATHS + PATHS_OR_HUB_IDS:
        table = values.get(section)
        value = table.get(key) if isinstance(table, dict) else None
        if not isinstance(value, str) or not isinstance(table, dict):
            continue
        path = (folder / Path(value).expanduser()).resolve()
        if (section, key) in PATHS or value.startswith((".", "~")) or path.exists():
            table[key] = str(path)


def begin_text_at(values: dict[str, Any], folder: Path, overrides: Iterable[str]) -> None:
    """Prepare for overrides that name another text: it is looked for in `folder`, and replaces the recipe's.

    Without an override of `data.root`, a new `data.source` or `data.sources` does not begin at the recipe's root.
    """
    named = {found[1] for found in map(TEXT.match, overrides) if found}
    data = values.setdefault("data", {})
    if not named or not isinstance(data, dict):
        return
    if named & {"source", "sources"}:
        data.pop("source", None)
        data.pop("sources", None)
    if "root" not in named:
        data["root"] = str(folder)
