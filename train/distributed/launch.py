"""Start a command once per device on this machine, as `torchrun` does, and say no more than the processes say.

Needs no torch. A process that fails ends the others; SIGINT and SIGTERM are passed on. A process whose launcher was
killed notices that its standard input has ended, and receives SIGTERM, so it saves and stops; one that waits in vain
for another process is ended after some minutes.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence

LAUNCHED = "SMOLTEXT_LAUNCHED"  # an environment variable of the processes started here
POLL_SECONDS = 0.1
GRACE_SECONDS = 30.0  # how long the others may take to end when one has failed
ORPHAN_SECONDS = 180.0  # how long a process may take to save and end when its launcher was killed


def launch(command: Sequence[str], processes: int) -> int:
    """Run a command in several processes that find each other. Returns the first exit code that is not 0, or 0."""
    port = _free_port()
    started = [_start(command, rank, processes, port) for rank in range(processes)]

    def pass_on(number: int, _frame: object) -> None:
        for process in started:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _wait(started)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_follower() -> bool:
    """Whether this is one of several processes, and not rank 0, which speaks for all."""
    return (LAUNCHED in os.environ or "TORCHELASTIC_RUN_ID" in os.environ) and os.environ.get("RANK", "0") != "0"


def heed_launcher() -> None:
    """Send SIGTERM to this process when the launcher that started it has ended, and end it if it lives on."""
    if LAUNCHED not in os.environ:
        return

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock a daemon thread would hold when Python ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start(command: Sequence[str], rank: int, processes: int, port: int) -> subprocess.Popen[bytes]:
    about = {
        LAUNCHED: "1",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return subprocess.Popen(  # noqa: S603 - this program itself
        command,
        env={**os.environ, **about},
        stdin=subprocess.PIPE,  # which ends with this process
        start_new_session=True,  # so that a terminal's Ctrl-C arrives once, passed on from here
    )


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    while True:
        codes = [process.poll() for process in processes]
        failed = [code for code in codes if code]
        if failed or None not in codes:
            break
        time.sleep(POLL_SECONDS)
    if failed:
        _end(processes)
    codes = [process.wait() for process in processes]
    code = failed[0] if failed else next((code for code in codes if code), 0)
    return code if code >= 0 else 128 - code  # as a shell tells a signal


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask the processes that still run to end, and end those that do not."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
