"""Serves a page: everything on this machine, nothing recorded, nothing fetched from elsewhere."""

from __future__ import annotations

import gradio as gr

from app.theme import CSS_FILE, make_theme


def launch(page: gr.Blocks, *, host: str, port: int, share: bool = False) -> list[str]:
    """Serve a page in the background, and return its addresses: the local one, and the public one if shared."""
    _, url, public_url = page.launch(
        server_name=host,
        server_port=port,
        share=share,
        theme=make_theme(),
        css_paths=CSS_FILE,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    return [address for address in (url, public_url) if address]
