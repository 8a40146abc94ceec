"""How the page looks: colours and the fonts that the visitor's system has, so that nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

CSS_FILE = Path(__file__).with_name("page.css")


def make_theme() -> gr.themes.Base:
    """Gradio's plain theme with our colours."""
    theme = gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="zinc",
        radius_size="lg",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
    )
    # One step darker than Gradio's own, which is too pale to read on white.
    return theme.set(body_text_color_subdued="*neutral_500")
