"""One writer per run folder: a lock that the system takes away from a process that ends, however it ends.

The lock is POSIX's record lock on the file `run.lock`. A killed process leaves none behind, network file systems know
it, and child processes do not inherit it. Claims are counted within a process.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from train.errors import RunError

LOCK = "run.lock"
_log = logging.getLogger(__name__)
HELD = (errno.EACCES, errno.EAGAIN)


@dataclass
class _Held:
    """A lock of this process: its file, by whom it was taken, and the folders that were made for it."""

    file: IO[str]
    pid: int
    made: list[Path] = field(default_factory=list)


_held: dict[Path, _Held] = {}


def claim(folder: Path) -> None:
    """Make this process the only writer of a folder, which is made if necessary.

    Repeating it changes nothing, so a run may be claimed when it is built and again when it trains.

    Raises:
        RunError: another process writes there; the message says which.
    """
    key = folder.resolve()
    if key in _held and _held[key].pid == os.getpid():
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        file = _locked_file(folder)
    except RunError:
        _remove_empty(made)
        raise
    _held[key] = _Held(file, os.getpid(), made)


def release(folder: Path) -> None:
    """Give up the claim, if this process has one. Folders that were made for it and are still empty are removed."""
    held = _held.get(folder.resolve())
    if held is None or held.pid != os.getpid():
        return
    del _held[folder.resolve()]
    (folder / LOCK).unlink(missing_ok=True)
    held.file.close()
    _remove_empty(held.made)


def _locked_file(folder: Path) -> IO[str]:
    """The lock file, locked, with this process's name in it."""
    path = folder / LOCK
    while True:
        file = path.open("a+", encoding="utf-8")
        if not _lock(file):
            holder = _holder(file)
            file.close()
            raise RunError(f"{folder} is being written by {holder}; let it end, stop it, or choose another folder")
        if _is_at(file, path):
            break
        file.close()  # its holder has just released it, which removes the file
    file.truncate(0)
    since = datetime.now(UTC).isoformat(timespec="seconds")
    file.write(json.dumps({"pid": os.getpid(), "host": platform.node(), "since": since}) + "\n")
    file.flush()
    return file


def _lock(file: IO[str]) -> bool:
    """Lock a file without waiting; False where another process has it. Where there are no locks, all succeed."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            return False
        _log.warning("%s cannot be locked (%s): let no other run write here", file.name, error.strerror)
    return True


def _is_at(file: IO[str], path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _holder(file: IO[str]) -> str:
    """Who holds a lock, as its file says."""
    file.seek(0)
    try:
        about = json.loads(file.read())
        return f"process {about['pid']} on {about['host']} since {about['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
