"""Writing files so that a reader finds the old one or the new one, never half of one."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` when the block ends well, else delete it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes 0600, which a server of other rights could not read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; let it take `folder`'s place when the block ends well, else delete it.

    What stood at `folder` before is gone only after the new one stands.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if folder.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".old", dir=folder.parent))
            folder.replace(retired / "folder")
            temporary.replace(folder)
            shutil.rmtree(retired)
        else:
            temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON, indented, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_object(path: Path, raised: type[Exception]) -> dict[str, Any]:
    """The JSON object of a UTF-8 file, with or without a byte order mark.

    Raises:
        raised: it cannot be read, is not JSON, is nested too deeply to be read, or is not an object.
        FileNotFoundError: there is no such file.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise
    except RecursionError:
        raise raised(f"{path} is not readable JSON: it is nested too deeply") from None
    except (OSError, ValueError) as error:
        raise raised(f"{path} is not readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise raised(f"{path} holds a JSON {type(value).__name__}, not an object")
    return value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
