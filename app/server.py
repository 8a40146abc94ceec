"""Serves a page: everything on this machine, nothing recorded, nothing fetched from elsewhere."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.api.guard import Guard
from app.theme import CSS_FILE, make_theme


def launch(page: gr.Blocks, *, host: str, port: int, share: bool = False) -> list[str]:
    """Serve a page in the background, and return its addresses: the local one, and the public one if shared."""
    _, url, public_url = page.launch(
        server_name=host,
        server_port=port,
        share=share,
        quiet=True,
        prevent_thread_lock=True,
        **_options(),
    )
    return [address for address in (url, public_url) if address]


def mount(page: gr.Blocks, api: Guard, *, host: str, port: int) -> None:
    """Put a page at the root of an API's server."""
    gr.mount_gradio_app(api.app, page, path="/", server_name=host, server_port=port, **_options())


def _options() -> dict[str, Any]:
    return {
        "theme": make_theme(),
        "css_paths": CSS_FILE,
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
    }
