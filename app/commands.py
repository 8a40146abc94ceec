"""What `python -m app` does, one function a command."""

from __future__ import annotations

import argparse
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from app.models import SLOTS, Models
from runtime.bundle import Bundle
from runtime.errors import OptionError

if TYPE_CHECKING:
    import gradio as gr

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def run(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    check_address(args.host, args.port)
    models = Models(Bundle.open(args.bundle, revision=args.revision), threads=args.threads)
    precision = args.precision or models.bundle.default_precision
    models.get(precision)  # a broken bundle fails here, not at a visitor's first click

    from app.page import build_page  # gradio takes seconds to load: mistakes are told before

    name = Path(args.bundle).resolve().name
    page = build_page(models, name=name, precision=precision)
    if args.share:
        _share(page, args, f"{name} ({precision})")
        return
    from app.api.application import Settings, build_api
    from app.api.guard import Limits
    from app.api.server import DrainingServer
    from app.server import mount

    limits = Limits(hosts=allowed_hosts(args.host, []))
    api = build_api(models.get(precision), Settings(name=name, slots=SLOTS, limits=limits))
    mount(page, api, host=args.host, port=args.port)
    address = f"http://{f'[{args.host}]' if ':' in args.host else args.host}:{args.port}/"

    def announce() -> None:
        print(f"{name} ({precision}) is at {address}", flush=True)
        print(f"Programs ask at {address}v1 (OpenAI's API). Press Ctrl-C to stop.", flush=True)

    DrainingServer(api, host=args.host, port=args.port, drain_seconds=0, announce=announce).run()


def _share(page: gr.Blocks, args: argparse.Namespace, name: str) -> None:
    """Serve the page alone, by Gradio's own server, which knows its relay."""
    from app.server import launch

    for address in launch(page, host=args.host, port=args.port, share=True):
        print(f"{name} is at {address}", flush=True)
    print("Press Ctrl-C to stop.", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        page.close(verbose=False)


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
