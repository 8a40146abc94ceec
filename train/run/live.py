"""A run in a notebook: the command runs in a process of its own, and its figure is drawn again and again meanwhile."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from threading import Thread

from matplotlib.backends.backend_agg import FigureCanvasAgg

from train.errors import RunError
from train.run.plot import figure_of

SHOWN_LINES = 8  # the last ones that the run has written


def train_live(*arguments: str, run: str | Path, every_seconds: float = 15.0) -> int:
    """Run `python -m train` with these arguments and show how it goes; returns its exit code.

    Stopping the cell stops the run as Ctrl-C does: it saves and ends. Needs IPython, which each notebook has.

    Args:
        arguments: such as "resume", "runs/a".
        run: the run folder.
        every_seconds: between two figures.
    """
    lines: deque[str] = deque(maxlen=SHOWN_LINES)
    command = [sys.executable, "-m", "train", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - this program itself
        reader = Thread(target=lines.extend, args=(process.stderr or (),))
        reader.start()
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(every_seconds)
                _show(Path(run), lines)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
        process.wait()
        reader.join()
    _show(Path(run), lines)
    return process.returncode


def _show(run: Path, lines: deque[str]) -> None:
    """Put the figure, where there is something to draw yet, and the last lines in place of the cell's output."""
    from IPython.display import Image, clear_output, display

    clear_output(wait=True)
    with suppress(RunError):
        display(Image(data=_png(run)))
    sys.stdout.write("".join(lines.copy()))


def _png(run: Path) -> bytes:
    figure, picture = figure_of([run]), io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(picture, format="png", dpi=100)
    return picture.getvalue()
