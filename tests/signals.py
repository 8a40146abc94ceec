"""How a test's child process is started so that it can be interrupted."""

from __future__ import annotations

import signal


def heed_ctrl_c() -> None:
    """A `preexec_fn`: a shell starts what runs in its background deaf to SIGINT, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
