"""Every tab, light and dark, on a desk and on a phone, judged by axe-core; and the contrast of what it leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.app.browser.visitor import PHONE, TABS, Visitor

DESK = {"viewport": {"width": 1280, "height": 800}}
CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")
# Best practices are recommendations of axe-core's authors, the others are success criteria.
ANSWER = (
    r"## A\n\n1\. `b` \*\*c\*\*\n\n```py\nd\n```\n\n> e\n\n"
    r"\|f\|g\|\n\|-\|-\|\n\|h\|\[i\]\(https://j\.k\)\|"
)
OPTIONS = {
    "resultTypes": ["violations"],
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
}


@pytest.fixture(scope="session")
def axe_script() -> str:
    axe = pytest.importorskip("axe_playwright_python.base", reason="axe-core is not installed (requirements-dev.txt)")
    return axe.AXE_SCRIPT


def findings(visitor: Visitor, axe_script: str) -> list[str]:
    """What axe-core finds serious or critical, and what has too little contrast."""
    page = visitor.page
    # Colours on their way to others are no colours yet.
    page.evaluate("Promise.all(document.getAnimations().map(animation => animation.finished.catch(() => {})))")
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(axe_script)
    found = page.evaluate("options => axe.run(document, options)", OPTIONS)
    serious = [
        f"{violation['id']} ({violation['impact']}): {node['html']} {node['failureSummary']}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
    return serious + page.evaluate(CONTRAST)


def fill(visitor: Visitor, tab: str) -> None:
    """Have something on the tab."""
    if tab == "Model":
        visitor.panel.get_by_role("heading", name="Precisions").wait_for()
        visitor.panel.get_by_label("Text to be cut into tokens").fill("Tom sat")
        visitor.panel.get_by_text("7 characters").wait_for()
        return
    visitor.set("Length", "128")
    if tab == "Chat":
        visitor.set("Regular expression", ANSWER)
    visitor.press("Close sampling")
    if tab == "Write":
        visitor.write("Once upon a time")
        visitor.wait_for_status("Finished")
    elif tab == "Chat":
        visitor.ask("Where is the cat?")
        visitor.wait_for_status("Finished")
    else:
        visitor.field.fill("Once upon a time")
        visitor.press("Compare")
        visitor.wait_for("() => document.querySelectorAll('#compare dd').length >= 10")
        visitor.button("Compare").wait_for()


@pytest.mark.parametrize("screen", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("tab", TABS)
def test_nothing_serious_is_found(served, visit, axe_script, tab, theme, screen) -> None:
    visitor = visit(served, tab, color_scheme=theme, **screen)
    found = {"first use": findings(visitor, axe_script) if theme == "light" else []}
    fill(visitor, tab)
    if tab != "Model":
        visitor.open_drawer().locator("summary").click()
        found["drawer"] = findings(visitor, axe_script)
        visitor.press("Close sampling")
    found["with a text"] = findings(visitor, axe_script)
    assert not {state: faults for state, faults in found.items() if faults}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_serious_is_found_while_a_text_comes(gated, visit, axe_script, theme) -> None:
    for tab, press in (("Write", "Continue"), ("Chat", "Send")):
        visitor = visit(gated, tab, color_scheme=theme)
        visitor.field.fill("Where is the cat?")
        visitor.press(press)
        gated.let(5)
        visitor.wait_for_status("Writing")
        assert not findings(visitor, axe_script)
        visitor.press("Stop")
        visitor.wait_for_status("Stopped")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_serious_is_found_in_an_error(served, visit, axe_script, theme) -> None:
    visitor = visit(served, "Write", color_scheme=theme)
    visitor.write("a little cat " * 600)
    visitor.wait_for_status("prompt has")
    assert not findings(visitor, axe_script)
