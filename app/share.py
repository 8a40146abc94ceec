"""A public address through Gradio's relay, for a machine that nobody can reach, such as a notebook's."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

LOG = logging.getLogger("app.share")
LOCAL = "127.0.0.1"


class Share:
    """The relay's end on this machine.

    Args:
        port: that the server listens at.
        hosts: names that a Host header may have; the relay's is added. None where any may.
        announce: told the address once it is there.
    """

    def __init__(self, port: int, hosts: set[str] | None, announce: Callable[[str], object]) -> None:
        self._port, self._hosts, self._announce = port, hosts, announce

    def open(self) -> None:
        """Ask for an address in the background: it takes seconds, and must not hold up the end."""
        threading.Thread(target=self._open, name="share", daemon=True).start()

    def close(self) -> None:
        """Take the address back."""
        from gradio.tunneling import CURRENT_TUNNELS

        for tunnel in CURRENT_TUNNELS:
            if tunnel.local_port == self._port and tunnel.proc is not None:
                tunnel.proc.terminate()
                tunnel.proc.communicate()
                tunnel.proc = None  # or Gradio would say so at the end of the process

    def _open(self) -> None:
        try:
            from gradio.networking import setup_tunnel

            address = setup_tunnel(LOCAL, self._port, secrets.token_urlsafe(32), None, None)
        except Exception as error:  # noqa: BLE001 - the local address is there all the same
            LOG.error("no public address: %s; is the internet reachable?", " ".join(str(error).split()))  # noqa: TRY400
            return
        if self._hosts is not None:
            self._hosts.add(urlsplit(address).hostname or "")
        self._announce(address)
