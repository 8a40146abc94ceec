"""What every command line shares: exit codes, and errors as one line."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

from runtime.errors import SmolTextError

FAILED, INCOMPLETE, INTERRUPTED = 1, 3, 130


def run_to_exit_code(command: Callable[[], int | None]) -> int:
    """Run a command: what it returns, 0 for None; 1 with one line on stderr where the user erred; 130 after Ctrl-C."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows `?`, not a traceback
    try:
        code = command() or 0
        if sys.stdout is not None:  # `>&-` leaves none
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has left: Python's own flush at exit must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if not isinstance(error, (SmolTextError, OSError, MemoryError)):
            raise  # a fault of ours: its traceback is what we need to see
        print("error:", " ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
        return FAILED
    return code
