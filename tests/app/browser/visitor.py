"""A visitor of the page: what people do and see, in their words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PROBES = (Path(__file__).with_name("probes.js")).read_text(encoding="utf-8")
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
SECONDS = 1000  # of playwright's milliseconds
PATIENCE = 10 * SECONDS
TABS = ("Write", "Chat", "Compare", "Model")
# Where a tab's text goes in, by the label that a screen reader says.
FIELDS = {"Write": "Your text", "Chat": "Message", "Compare": "Prompt"}


class Visitor:
    """One browser window. What went wrong in it is told by `faults()`.

    Args:
        context: of the browser: cookies, storage and viewport.
        url: of the page.
    """

    def __init__(self, context: Any, url: str) -> None:
        self.url = url
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.page.add_init_script(PROBES)
        self.requested: list[str] = []
        self.complaints: list[str] = []
        self.expected: list[str] = []
        self._violations: list[str] = []
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def expect_complaints(self, *patterns: str) -> None:
        """What the browser's console may say in this test."""
        self.expected += patterns

    def faults(self) -> list[str]:
        """Complaints of the console, requests to elsewhere, violations of the page's policy."""
        elsewhere = [url for url in self.requested if not url.startswith((f"{self.url}/", "data:", "blob:"))]
        complaints = [
            text for text in self.complaints if not any(re.search(pattern, text) for pattern in self.expected)
        ]
        return complaints + elsewhere + self.page.evaluate("window.probes.violations")

    # Going about

    def open(self, tab: str | None = None) -> Visitor:
        self.page.goto(self.url)
        self.page.get_by_role("tab", selected=True).wait_for()
        return self if tab is None else self.choose_tab(tab)

    def choose_tab(self, name: str) -> Visitor:
        self.page.get_by_role("tab", name=name, exact=True).click()
        return self

    def reload(self) -> None:
        self.page.reload()
        self.page.get_by_role("tab", selected=True).wait_for()

    @property
    def tab(self) -> str:
        return self.page.get_by_role("tab", selected=True).inner_text()

    @property
    def panel(self) -> Any:
        """The tab's content."""
        return self.page.get_by_role("tabpanel")

    def button(self, name: str, *, nth: int = 0) -> Any:
        """A button that can be seen, by its whole name but the keys that do the same."""
        return self.page.get_by_role("button", name=re.compile(rf"^{re.escape(name)}\s*(Esc|Ctrl.*)?$")).nth(nth)

    def press(self, name: str, *, nth: int = 0) -> None:
        self.button(name, nth=nth).click()

    @property
    def field(self) -> Any:
        return self.panel.get_by_role("textbox", name=FIELDS[self.tab], exact=True)

    @property
    def text(self) -> str:
        """Of the sheet, or of the message that is being written."""
        return self.field.input_value()

    def wait_for(self, script: str, argument: Any = None, seconds: float = 10) -> None:
        """Until a JavaScript function gives something true."""
        self.page.wait_for_function(script, arg=argument, timeout=seconds * SECONDS)

    def wait_for_status(self, text: str) -> str:
        """Until the tab's line of state has a text; the whole line."""
        line = self.panel.locator(".status", has_text=text).first
        line.wait_for()
        return line.inner_text().replace("\n", " ")

    def wait_for_text(self, length: int) -> str:
        """Until the sheet is longer than this; what is on it."""
        is_longer = "length => document.querySelector('[aria-label=\"Your text\"]').value.length > length"
        self.wait_for(is_longer, length)
        return self.text

    def announced(self) -> list[str]:
        return self.page.evaluate("window.probes.announced")

    # The drawer

    def open_drawer(self) -> Any:
        drawer = self.page.locator("#drawer")
        if drawer.is_hidden():
            self.page.locator("#drawer-button").click()
        return drawer

    def set(self, label: str, value: str) -> None:
        """Set what a control of the drawer says."""
        drawer = self.open_drawer()
        control = drawer.locator("input:not([type=range]), textarea").and_(drawer.get_by_label(label, exact=True))
        if control.is_hidden():
            drawer.locator("summary").click()
        control.fill(value)
        control.blur()

    def setting(self, label: str) -> str:
        drawer = self.open_drawer()
        control = drawer.locator("input:not([type=range]), textarea").and_(drawer.get_by_label(label, exact=True))
        return control.input_value()

    # Writing and talking

    def write(self, text: str, **settings: str) -> None:
        """Have a text continued."""
        self.field.fill(text)
        self.press("Continue")

    def ask(self, question: str) -> None:
        self.field.fill(question)
        self.field.press("Enter")

    def messages(self) -> list[str]:
        """Questions and answers, as they are read."""
        return [found.inner_text() for found in self.panel.locator("article .text").all()]
