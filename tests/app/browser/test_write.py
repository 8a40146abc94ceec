"""Write: one sheet that the model continues."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

START = "Once upon a time, there was"
# How much of the sheet lies below what is seen, in pixels.
BELOW = "(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight)"
BELOW += "(document.querySelector('section:not([hidden]) .scroller'))"


def write(visitor, text: str = START, length: int | None = None) -> str:
    """Have a text continued to its end; the whole of it."""
    if length is not None:
        visitor.set("Length", str(length))
    visitor.write(text)
    visitor.wait_for_status("Finished")
    return visitor.text


def test_a_first_visitor_has_a_text_with_one_click(served, visit) -> None:
    visitor = visit(served, "Write")
    example = visitor.panel.locator(".chip").first
    beginning = example.inner_text()
    example.click()
    status = visitor.wait_for_status("Finished")
    assert visitor.text.startswith(beginning)
    assert len(visitor.text) > len(beginning)
    assert "tokens/s" in status
    assert " context" in status


def test_a_text_streams_and_stop_keeps_what_came(gated, visit) -> None:
    visitor = visit(gated, "Write")
    visitor.write(START)
    gated.let(4)
    first = visitor.wait_for_text(len(START))
    gated.let(4)
    second = visitor.wait_for_text(len(first))
    assert second.startswith(first)
    assert first.startswith(START)
    visitor.press("Stop")
    visitor.wait_for_status("Stopped")
    gated.go()
    gated.wait_until_idle()
    steps = gated.steps()
    assert visitor.text.startswith(second)
    visitor.button("Continue").wait_for()
    assert gated.steps() == steps


def test_escape_stops_from_within_the_sheet(gated, visit) -> None:
    visitor = visit(gated, "Write")
    visitor.field.fill(START)
    visitor.field.press("Control+Enter")
    gated.let(3)
    visitor.wait_for_text(len(START))
    visitor.field.press("Escape")
    visitor.wait_for_status("Stopped")
    gated.go()
    gated.wait_until_idle()


def test_who_waits_sees_the_place_and_leaves_at_once(gated, visit) -> None:
    first, second = visit(gated, "Write"), visit(gated, "Write")
    first.write(START)
    gated.let(2)
    first.wait_for_text(len(START))
    second.write("A mouse")
    second.wait_for_status("1st")
    second.press("Leave")
    second.wait_for_status("Stopped")
    assert second.text == "A mouse"
    second.button("Continue").wait_for()
    assert gated.state()["texts"] == 1
    second.write("Another mouse")
    second.wait_for_status("1st")
    first.press("Stop")
    gated.go()
    second.wait_for_status("Finished")
    assert second.text.startswith("Another mouse")


def test_a_visitor_who_closes_the_page_costs_nothing_more(gated, visit) -> None:
    visitor = visit(gated, "Write")
    visitor.write(START)
    gated.let(3)
    visitor.wait_for_text(len(START))
    visitor.page.close()
    gated.let(1)
    gated.wait_until_idle()


def test_undo_takes_the_last_continuation_back_whole(served, visit) -> None:
    visitor = visit(served, "Write")
    first = write(visitor, length=12)
    visitor.press("Continue")
    visitor.wait_for_text(len(first))
    visitor.wait_for_status("Finished")
    visitor.press("Undo")
    assert visitor.text == first


def test_again_flips_between_alternatives(served, visit) -> None:
    visitor = visit(served, "Write")
    visitor.set("Temperature", "1.2")
    first = write(visitor, length=24)
    visitor.press("Again")
    visitor.panel.get_by_text("2/2").wait_for()
    visitor.button("Continue").wait_for()
    second = visitor.text
    assert second.startswith(START)
    assert second != first
    visitor.press("Previous alternative")
    assert visitor.text == first
    visitor.press("Next alternative")
    assert visitor.text == second
    visitor.press("Undo")
    assert visitor.text == START


def test_a_text_that_was_cut_is_continued_from_there(served, visit) -> None:
    visitor = visit(served, "Write")
    first = write(visitor, length=8)
    visitor.press("Continue")
    second = visitor.wait_for_text(len(first))
    assert second.startswith(first)
    visitor.wait_for_status("Finished")


def test_new_text_is_tinted_until_it_is_edited(served, visit) -> None:
    visitor = visit(served, "Write")
    whole = write(visitor, length=12)
    tinted = visitor.panel.locator(".fresh")
    assert tinted.inner_text() == whole[len(START) :]
    visitor.field.press("Control+End")
    visitor.field.press("!")
    assert visitor.text == f"{whole}!"
    assert "".join(tinted.all_inner_texts()) == ""


def test_the_same_seed_writes_the_same_text(served, visit) -> None:
    visitor = visit(served, "Write")
    visitor.set("Seed", "7")
    first = write(visitor, length=24)
    visitor.press("Undo")
    assert write(visitor) == first
    visitor.press("Undo")
    visitor.set("Seed", "8")
    assert write(visitor) != first


def test_a_json_schema_in_the_drawer_shapes_the_text(served, visit) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [1, 2, 3]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    visitor = visit(served, "Write")
    visitor.set("JSON schema", json.dumps(schema))
    text = write(visitor, "")
    assert json.loads(text)["n"] in (1, 2, 3)


def test_what_is_no_schema_is_said_while_it_is_typed(served, visit) -> None:
    visitor = visit(served, "Write")
    visitor.set("JSON schema", "{")
    assert visitor.open_drawer().get_by_text("not JSON").is_visible()


@pytest.mark.usefixtures("shared_data")  # the tiny model's context is too short
def test_a_long_text_stays_in_sight_unless_the_reader_scrolls(gated, visit) -> None:
    visitor = visit(gated, "Write")
    visitor.write("A line.\n" * 40 + START)
    gated.let(2)
    visitor.wait_for_text(len("A line.\n" * 40 + START))
    visitor.wait_for(f"() => {BELOW} < 60")
    assert visitor.button("Stop").is_visible()
    visitor.panel.hover()
    visitor.page.mouse.wheel(0, -400)
    visitor.wait_for(f"() => {BELOW} > 300")
    top = visitor.panel.locator(".scroller").evaluate("scroller => scroller.scrollTop")
    length = len(visitor.text)
    gated.let(60)
    visitor.wait_for_text(length + 60)
    assert visitor.panel.locator(".scroller").evaluate("scroller => scroller.scrollTop") == top
    visitor.press("Stop")


def test_a_link_has_the_same_text_written_again(served, visit) -> None:
    visitor = visit(served, "Write")
    visitor.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visitor.set("Temperature", "1.1")
    visitor.set("Length", "24")
    visitor.press("Close sampling")
    text = write(visitor)
    visitor.press("Copy a link")
    visitor.wait_for("async () => (await navigator.clipboard.readText()).includes('#')")
    link = visitor.page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(served.url)

    other = visit(served, "Chat")
    other.page.goto("about:blank")
    other.page.goto(link)
    other.wait_for_status("From a link")
    assert other.text == START
    other.press("Continue")
    other.wait_for_status("Finished")
    assert other.text == text
    assert (float(other.setting("Temperature")), other.setting("Length")) == (1.1, "24")


def test_a_broken_link_opens_the_page_all_the_same(served, visit) -> None:
    visitor = visit(served, "Write")
    visitor.page.goto("about:blank")
    visitor.page.goto(f"{served.url}/#write=not-a-text")
    visitor.wait_for_status("The link is damaged")
    assert visitor.text == ""


def test_certainty_lists_five_rivals_and_one_of_them_branches(served, visit) -> None:
    visitor = visit(served, "Write")
    visitor.set("Temperature", "1.5")
    visitor.set("Seed", "3")
    visitor.set("Length", "40")
    visitor.press("Close sampling")
    visitor.press("Show certainty")
    text = write(visitor)
    unlikely = visitor.panel.locator(".doubt").first
    box = unlikely.bounding_box()
    start = int(unlikely.get_attribute("data-start"))
    visitor.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    rivals = visitor.panel.get_by_role("menuitem")
    rivals.first.wait_for()
    assert 4 <= rivals.count() <= 5
    assert all("%" in rival.inner_text() for rival in rivals.all())
    chosen = rivals.first.locator(".word").inner_text()
    rivals.first.click()
    visitor.wait_for_status("Finished")
    assert visitor.text[:start] == text[:start]
    assert visitor.text[start:].strip().startswith(chosen)
    visitor.press("Undo")
    assert visitor.text == text


def test_a_text_is_saved_as_a_file(served, visit) -> None:
    visitor = visit(served, "Write")
    text = write(visitor, length=8)
    with visitor.page.expect_download() as download:
        visitor.press("Save as .txt")
    assert download.value.suggested_filename.endswith(".txt")
    assert Path(download.value.path()).read_text(encoding="utf-8") == text


def test_a_structure_that_was_cut_is_said(served, visit) -> None:
    visitor = visit(served, "Write")
    visitor.set("Length", "4")
    visitor.set("Regular expression", "a{60}")
    visitor.write("")
    visitor.wait_for_status("before the structure was complete")
