"""Draws the pictures of the page in docs/page/: each tab on a desktop and on a phone, light and dark.

    python docs/draw_page.py BUNDLE [--name SmolLM2-135M-Instruct] [--only chat,write]

It serves the bundle itself and looks at it with a headless Chromium: it needs requirements-dev.txt, and a `chromium` on
the path. Seeds are fixed, so that only a change of the page or of the model changes the texts; speeds are those of the
machine.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

REPOSITORY = Path(__file__).resolve().parents[1]
PICTURES = REPOSITORY / "docs" / "page"
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
COLOURS = 128  # of a picture's palette: a quarter of the bytes, and no difference to the eye
START_SECONDS, END_SECONDS = 60, 240
SEED = 7


@contextmanager
def served(bundle: str, name: str | None) -> Iterator[str]:
    """The address of a server of the bundle, once its model is open."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "app", "run", bundle, "--port", str(port)]
    command += ["--model-name", name] if name else []
    server = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL)  # noqa: S603 - our own command
    url = f"http://127.0.0.1:{port}/"
    try:
        wait_for_model(url)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=30)


def wait_for_model(url: str) -> None:
    """Raises TimeoutError where the model does not come."""
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends:
        try:
            with urllib.request.urlopen(url + "page/state", timeout=2) as answer:  # noqa: S310 - our own server
                if b'"ready"' in answer.read():
                    return
        except (urllib.error.URLError, TimeoutError):
            pass
        time.sleep(0.3)
    raise TimeoutError("the model was not open after a minute")


def until(page: Page, selector: str, label: str) -> None:
    """Wait until a button says something. The page's policy forbids what playwright would wait with."""
    ends = time.monotonic() + END_SECONDS
    while label not in (page.text_content(selector) or ""):
        if time.monotonic() > ends:
            raise TimeoutError(f"{selector} did not come to say {label!r}")
        page.wait_for_timeout(100)


def with_seed(page: Page, length: int) -> None:
    """Set the seed and the length in the drawer."""
    page.click("#drawer-button")
    page.fill("#setting-seed", str(SEED))
    page.fill("#setting-max_new_tokens", str(length))
    page.click('[aria-label="Close sampling"]')


def draw_chat(page: Page) -> None:
    """Two questions and their answers."""
    with_seed(page, 160)
    for question in ("What is gravity, in simple words?", "How do I make a list in Python?"):
        page.fill(".composer textarea >> visible=true", question)
        page.click("#send")
        until(page, "#send", "Send")


def draw_write(page: Page) -> None:
    """A text with a continuation, its certainty shown, and the rivals of one of its tokens."""
    with_seed(page, 120)
    page.click("#certainty")
    page.fill("#sheet", "The old lighthouse keeper had one rule: never let the light go out. That night")
    page.click("#continue")
    until(page, "#continue", "Continue")
    page.click("#again")
    until(page, "#continue", "Continue")
    page.locator("#write .scroller").evaluate("scroller => { scroller.scrollTop = 0; }")
    page.wait_for_timeout(300)
    # The text field lies over the token: what is clicked is the place.
    page.locator(".doubt").nth(5).click(force=True)
    page.wait_for_timeout(300)


def draw_compare(page: Page) -> None:
    """One question, answered by the columns that are there at first."""
    page.fill("#compare .composer textarea", "What is gravity, in simple words?")
    page.click("#compare-go")
    page.wait_for_timeout(500)
    until(page, "#compare-go", "Compare")
    page.wait_for_timeout(500)


def draw_model(page: Page) -> None:
    """The card and the plots."""
    page.wait_for_timeout(1500)


TABS: dict[str, Callable[[Page], None]] = {
    "chat": draw_chat,
    "write": draw_write,
    "compare": draw_compare,
    "model": draw_model,
}


def draw(browser: Browser, url: str, tab: str) -> None:
    """One tab's four pictures."""
    for device, screen in (("desktop", DESKTOP), ("phone", PHONE)):
        context = browser.new_context(**screen, color_scheme="light", reduced_motion="reduce")
        page = context.new_page()
        page.goto(url)
        page.wait_for_timeout(1500)  # the message that the model is being loaded goes
        page.click(f"#tab-{tab}")
        TABS[tab](page)
        for theme in ("light", "dark"):
            path = PICTURES / f"{tab}-{device}-{theme}.png"
            page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
            page.wait_for_timeout(300)
            page.screenshot(path=path)
            shrink(path)
        context.close()


def shrink(path: Path) -> None:
    """Write a picture with a palette in place of the one with all colours."""
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("--name", help="of the model, where the bundle's own is not to be shown")
    parser.add_argument("--only", default=",".join(TABS), help="tabs, with commas between them")
    options = parser.parse_args()
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        parser.error("there is no chromium on the path")
    PICTURES.mkdir(exist_ok=True)
    with served(options.bundle, options.name) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        for tab in options.only.split(","):
            draw(browser, url, tab)
        browser.close()


if __name__ == "__main__":
    main()
