"""Model: what is told of it, a measurement, tokens by pointer and by keyboard, lines that can be copied."""

from __future__ import annotations

import pytest

from tests.app.browser.visitor import PHONE

# Of three precisions, and with the figures of these weights.
pytestmark = pytest.mark.usefixtures("shared_data")


@pytest.fixture
def visitor(served, visit):
    found = visit(served, "Model")
    found.panel.get_by_role("heading", name="Precisions").wait_for()
    return found


def pieces(visitor):
    return visitor.panel.get_by_role("listbox", name="Tokens").get_by_role("option")


def tokenize(visitor, text: str) -> None:
    visitor.panel.get_by_role("textbox", name="Text to be cut into tokens").fill(text)
    visitor.panel.get_by_text(f"{len(text)} characters").wait_for()


def test_parts_figures_and_plots_are_there(visitor):
    assert visitor.panel.get_by_role("heading", name="260,032 parameters").count() == 1
    assert visitor.panel.get_by_role("rowheader").count() == 3
    plots = [plot.get_attribute("aria-label") for plot in visitor.panel.get_by_role("img").all()]
    assert len(plots) == 3
    assert all("q8" in plot for plot in plots)


def test_the_precision_in_use_is_marked(visitor):
    visitor.page.locator("#precision").select_option("q8")
    visitor.panel.get_by_role("rowheader", name="q8 in use").wait_for()
    visitor.button("Measure q8 for 20 s").wait_for()


def test_a_measurement_tells_rows_as_they_come_and_is_stopped(visitor):
    visitor.press("Measure int8 for 20 s")
    visitor.panel.locator(".measure tbody tr").wait_for()
    visitor.wait_for("() => Number(document.querySelector('.measure td:last-child').textContent) > 2")
    visitor.press("Stop")
    visitor.panel.locator(".status", has_text="Stopped").wait_for()
    texts = visitor.panel.locator(".measure td").last.inner_text()
    visitor.reload()
    visitor.panel.locator(".measure td").last.wait_for()
    assert visitor.panel.locator(".measure td").last.inner_text() == texts


def test_a_character_of_several_tokens_is_one_piece_and_spaces_are_seen(visitor):
    tokenize(visitor, "a 😀")
    labels = [piece.get_attribute("aria-label") for piece in pieces(visitor).all()]
    assert any(label.startswith("😀, ids ") for label in labels)
    assert any("·" in piece.inner_text() for piece in pieces(visitor).all())
    assert labels[0].startswith("Special token <s>, id 1")


def test_ids_are_told_by_pointer_and_by_keyboard(visitor):
    tokenize(visitor, "Tom sat")
    pieces(visitor).nth(1).hover()
    told = visitor.panel.locator(".told")
    first = told.inner_text()
    assert "id" in first
    pieces(visitor).first.focus()
    visitor.page.keyboard.press("ArrowRight")
    visitor.page.keyboard.press("ArrowRight")
    assert pieces(visitor).nth(2).evaluate("piece => piece === document.activeElement")
    assert told.inner_text() != first
    visitor.page.keyboard.press("End")
    assert pieces(visitor).last.get_attribute("aria-selected") == "true"


def test_html_in_a_text_is_text(visitor):
    tokenize(visitor, "<b>x</b><script>document.title='owned'</script>")
    assert visitor.panel.locator(".pieces b, .pieces script").count() == 0
    assert "owned" not in visitor.page.title()


def test_lines_follow_the_settings_of_a_tab(visitor):
    visitor.choose_tab("Write")
    visitor.set("Temperature", "0.4")
    visitor.set("Seed", "7")
    visitor.choose_tab("Model")
    visitor.panel.get_by_role("combobox", name="Settings of").select_option("write")
    shell = visitor.panel.get_by_role("region", name="Command line")
    shell.get_by_text("--temperature 0.4").wait_for()
    assert "--seed 7" in shell.inner_text()
    assert "temperature=0.4" in visitor.panel.get_by_role("region", name="Python").inner_text()


def test_on_a_phone_nothing_is_wider_than_the_screen(served, visit):
    visitor = visit(served, "Model", **PHONE)
    visitor.panel.get_by_role("heading", name="Precisions").wait_for()
    assert visitor.page.evaluate(
        "(() => { const s = document.querySelector('#model .scroller'); return s.scrollWidth <= s.clientWidth; })()"
    )


def test_a_card_that_does_not_come_is_said_and_asked_for_again(served, visit):
    visitor = visit(served)
    visitor.page.route("**/page/model", lambda route: route.abort())
    visitor.expect_complaints("Failed to load resource")
    visitor.choose_tab("Model")
    visitor.button("Try again").wait_for()
    visitor.page.unroute("**/page/model")
    visitor.press("Try again")
    visitor.panel.get_by_role("heading", name="Precisions").wait_for()
