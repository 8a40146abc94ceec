"""What `python -m app` does, one function a command."""

from __future__ import annotations

import argparse
import socket

from runtime.errors import OptionError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def run(args: argparse.Namespace) -> None:
    """Serve the page, and OpenAI's API beside it, until a signal."""
    check_address(args.host, args.port)
    from app.serving import run as run_site

    run_site(args, allowed_hosts(args.host, args.allow_host))


def serve(args: argparse.Namespace) -> None:
    """Serve OpenAI's API until a signal."""
    check_address(args.host, args.port)
    from app.serving import serve as serve_api

    serve_api(args, allowed_hosts(args.host, args.allow_host))


def allowed_hosts(host: str, named: list[str]) -> tuple[str, ...] | None:
    """Names that a Host header may have. Where other machines get in, any, unless some are named."""
    if host in LOOPBACK or named:
        return (*LOOPBACK, host, *named)
    return None


def check_address(host: str, port: int) -> None:
    """Raise OptionError where nothing can be served at this address.

    The server would say so too, but only after the model is loaded, and in words about its own settings.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do: a port whose last connections are still being forgotten is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise OptionError(f"cannot serve at {host}:{port}: {reason}; choose another --port or --host") from None
