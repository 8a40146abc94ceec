"""What `python -m app` does, one function a command."""

from __future__ import annotations

import argparse
import socket
import threading
from pathlib import Path

from app.models import Models
from runtime.bundle import Bundle
from runtime.errors import OptionError


def run(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    check_address(args.host, args.port)
    models = Models(Bundle.open(args.bundle, revision=args.revision), threads=args.threads)
    precision = args.precision or models.bundle.default_precision
    models.get(precision)  # a broken bundle fails here, not at a visitor's first click

    from app.page import build_page  # gradio takes seconds to load: mistakes are told before
    from app.server import launch

    name = Path(args.bundle).resolve().name
    page = build_page(models, name=name, precision=precision)
    addresses = launch(page, host=args.host, port=args.port, share=args.share)
    for address in addresses:
        print(f"{name} ({precision}) is at {address}", flush=True)
    print("Press Ctrl-C to stop.", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        page.close(verbose=False)


def serve(args: argparse.Namespace) -> None:
    """Serve OpenAI's API until a signal."""
    check_address(args.host, args.port)
    from app.serving import serve as serve_api

    serve_api(args)


def check_address(host: str, port: int) -> None:
    """Raise OptionError where the page cannot be served at this address.

    Gradio would say so too, but only after the model is loaded, and in words about its own settings.
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
