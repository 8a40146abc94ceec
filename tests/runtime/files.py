"""Files of a bundle, changed so that they are wrong, and what a command says then."""

from __future__ import annotations

import json
from pathlib import Path


def edit_json(path: Path, **changes: object) -> None:
    """Change keys of a JSON object; None takes one out."""
    value = json.loads(path.read_text()) if path.is_file() else {}
    value |= changes
    path.write_text(json.dumps({name: entry for name, entry in value.items() if entry is not None}))


def fails(result, *words, code=1):
    """One line on stderr that has the words, nothing on stdout."""
    found, out, err = result
    assert found == code
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
