"""The page on a phone: 390 by 844 pixels, and fingers."""

from __future__ import annotations

import pytest

from tests.app.browser.visitor import PHONE, TABS

START = "Once upon a time, there was"


def overflow(visitor) -> int:
    """How many pixels the page is wider than the screen."""
    return visitor.page.evaluate("document.scrollingElement.scrollWidth - innerWidth")


def is_in_view(visitor, locator) -> bool:
    box = locator.bounding_box()
    return box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 390 and 0 <= box["y"] <= 844 - box["height"]


@pytest.mark.parametrize("tab", TABS)
def test_nothing_is_wider_than_the_screen(served, visit, tab) -> None:
    visitor = visit(served, tab, **PHONE)
    assert overflow(visitor) <= 0
    for name in TABS:
        assert is_in_view(visitor, visitor.page.get_by_role("tab", name=name, exact=True))
    if tab != "Model":
        visitor.open_drawer()
        assert overflow(visitor) <= 0


def test_settings_come_from_below(served, visit) -> None:
    visitor = visit(served, "Write", **PHONE)
    box = visitor.open_drawer().bounding_box()
    assert (box["x"], box["width"]) == (0, 390)
    assert box["y"] > 150
    assert is_in_view(visitor, visitor.button("Continue")), "what starts and stops is under the sheet"
    visitor.set("Temperature", "0.5")
    visitor.press("Close sampling")
    assert visitor.page.locator("#drawer").is_hidden()
    assert visitor.page.locator("#drawer-mark").inner_text() == "1"


@pytest.mark.usefixtures("shared_data")  # the tiny model's context is too short
@pytest.mark.parametrize("tab", ["Write", "Chat"])
def test_stop_stays_in_reach_under_a_long_text(gated, visit, tab) -> None:
    visitor = visit(gated, tab, **PHONE)
    text = "A line of a long text.\n" * 30 + START
    visitor.field.fill(text)
    visitor.press("Continue" if tab == "Write" else "Send")
    gated.let(30)
    visitor.wait_for_status("Writing")
    assert is_in_view(visitor, visitor.button("Stop"))
    assert overflow(visitor) <= 0
    visitor.button("Stop").tap()
    visitor.wait_for_status("Stopped")


@pytest.mark.parametrize("tab", ["Write", "Chat"])
def test_examples_stand_in_one_row(served, visit, tab) -> None:
    visitor = visit(served, tab, **PHONE)
    boxes = [chip.bounding_box() for chip in visitor.panel.locator(".chip").all()]
    assert len(boxes) > 1
    assert len({round(box["y"]) for box in boxes}) == 1
    assert overflow(visitor) <= 0


@pytest.mark.usefixtures("shared_data")  # the tiny model's context is too short
def test_a_wide_answer_scrolls_by_itself(served, visit) -> None:
    visitor = visit(served, "Chat", **PHONE)
    visitor.set("Regular expression", r"```\na{120}\n```\n\n\| a{60} \| b{60} \|\n\|-\|-\|\n\| 1 \| 2 \|\n\nc{120}")
    visitor.press("Close sampling")
    visitor.ask("What is wide?")
    visitor.wait_for_status("Finished")
    visitor.panel.locator("table").wait_for()
    assert overflow(visitor) <= 0


def test_fingers_find_what_they_press(served, visit) -> None:
    """Every control is 24 pixels high and wide at least (WCAG 2.2, 2.5.8)."""
    visitor = visit(served, "Chat", **PHONE)
    visitor.set("Length", "12")
    visitor.press("Close sampling")
    visitor.ask("Where is the cat?")
    visitor.wait_for_status("Finished")
    small = []
    for control in visitor.page.locator("button:visible, select:visible, textarea:visible").all():
        box = control.bounding_box()
        if min(box["width"], box["height"]) < 24:
            small.append(control.evaluate("control => control.outerHTML"))
    assert not small
