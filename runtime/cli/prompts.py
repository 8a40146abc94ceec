"""Where a command's text comes from: an argument, a file, or stdin."""

from __future__ import annotations

import os
import stat
import sys
import threading
from pathlib import Path

from runtime.errors import PromptError

STDIN = "-"
# A pipe into which nothing comes may be one that a caller left open by mistake.
SECONDS_BEFORE_WORDS, WAITING = 2.0, "reading the prompt from stdin, until it ends\n"


def read_prompt(argument: str | None) -> str:
    """The prompt that was given; else what is piped into stdin, without the newline that ends it; else an empty one.

    Raises:
        PromptError: bytes that are no UTF-8.
    """
    if argument == STDIN:
        return read_stdin()
    if argument is not None:
        return argument
    return read_stdin().removesuffix("\n").removesuffix("\r") if is_piped() else ""


def is_piped() -> bool:
    """Whether stdin is a pipe or a file, and what it holds so meant for us. A terminal and /dev/null are neither."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):  # closed, or an object of Python's
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def read_stdin() -> str:
    """All of stdin. Raises PromptError for bytes that are no UTF-8."""
    words = threading.Timer(SECONDS_BEFORE_WORDS, sys.stderr.write, [WAITING])
    words.daemon = True
    words.start()
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise PromptError(f"stdin is not UTF-8 text: {error}") from None
    finally:
        words.cancel()


def read_file(path: str) -> str:
    """A text file, or stdin for `-`. Raises PromptError where it cannot be read."""
    if path == STDIN:
        return read_stdin()
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise PromptError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not UTF-8 text: {error}") from None
