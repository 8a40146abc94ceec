"""The frame around the tabs: header, drawer, light and dark, and what a reload keeps."""

from __future__ import annotations

import pytest

QUESTION = "Where is the cat?"


def background(visitor) -> int:
    """How light the page's ground is, 0 to 255."""
    return visitor.page.evaluate(
        "Math.max(...getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3))"
    )


def test_the_header_names_the_model_and_its_precisions(served, visit) -> None:
    visitor = visit(served)
    header = visitor.page.locator("header.top")
    assert "Storyteller" in header.inner_text()
    assert " context" in header.inner_text()
    precisions = visitor.page.get_by_label("Precision", exact=True).locator("option").all_inner_texts()
    assert any(name.startswith("int8") for name in precisions)
    assert any(name.startswith("fp32") for name in precisions)


def test_another_precision_answers_when_it_is_chosen(served, visit) -> None:
    visitor = visit(served, "Write")
    visitor.page.get_by_label("Precision", exact=True).select_option("fp32")
    visitor.set("Length", "8")
    visitor.write("The cat")
    assert "fp32" in visitor.wait_for_status("Finished")
    visitor.reload()
    assert visitor.page.get_by_label("Precision", exact=True).input_value() == "fp32"


def test_a_reload_loses_nothing(served, visit) -> None:
    visitor = visit(served, "Chat")
    visitor.set("Length", "12")
    visitor.set("Seed", "5")
    visitor.ask(QUESTION)
    visitor.wait_for_status("Finished")
    talk = visitor.messages()
    visitor.field.fill("A question that is not sent yet")
    visitor.choose_tab("Write")
    visitor.set("Temperature", "0.3")
    visitor.field.fill("A draft")
    visitor.reload()

    assert visitor.tab == "Write"
    assert visitor.text == "A draft"
    assert float(visitor.setting("Temperature")) == 0.3
    assert visitor.setting("Seed") == ""
    visitor.choose_tab("Chat")
    assert visitor.text == "A question that is not sent yet"
    assert visitor.messages() == talk
    assert (visitor.setting("Length"), visitor.setting("Seed")) == ("12", "5")


def test_a_reload_keeps_the_alternatives_and_undo(served, visit) -> None:
    visitor = visit(served, "Write")
    visitor.set("Length", "8")
    visitor.write("The cat")
    visitor.wait_for_status("Finished")
    whole = visitor.text
    visitor.reload()
    assert visitor.text == whole
    visitor.press("Undo")
    assert visitor.text == "The cat"


def test_a_preset_is_one_click_and_reset_leads_back(served, visit) -> None:
    visitor = visit(served, "Write")
    drawer = visitor.open_drawer()
    own = visitor.setting("Temperature")
    mark = visitor.page.locator("#drawer-mark")
    assert mark.is_hidden()
    drawer.get_by_role("radio", name="Wild").click()
    assert drawer.get_by_role("radio", name="Wild", checked=True).is_visible()
    assert visitor.setting("Temperature") != own
    assert mark.is_visible()
    drawer.get_by_role("button", name="Reset").click()
    assert drawer.get_by_role("radio", name="Balanced", checked=True).is_visible()
    assert visitor.setting("Temperature") == own
    assert mark.is_hidden()


def test_settings_of_a_tab_are_its_own(served, visit) -> None:
    visitor = visit(served, "Write")
    visitor.set("Temperature", "1.5")
    visitor.choose_tab("Chat")
    assert float(visitor.setting("Temperature")) != 1.5
    visitor.choose_tab("Write")
    assert float(visitor.setting("Temperature")) == 1.5


@pytest.mark.parametrize(("typed", "held"), [("9", "2"), ("-1", "0")])
def test_a_setting_out_of_its_range_is_held_within_it(served, visit, typed, held) -> None:
    visitor = visit(served, "Write")
    visitor.set("Temperature", typed)
    assert visitor.setting("Temperature") == held


def test_the_page_is_dark_where_the_system_is(served, visit) -> None:
    assert background(visit(served, color_scheme="dark")) < 60
    assert background(visit(served, color_scheme="light")) > 200


def test_light_and_dark_are_chosen_by_a_button_and_kept(served, visit) -> None:
    visitor = visit(served, color_scheme="light")
    visitor.page.get_by_role("button", name="Dark").click()
    assert background(visitor) < 60
    visitor.reload()
    assert background(visitor) < 60
    visitor.page.get_by_role("button", name="Light").click()
    assert background(visitor) > 200


def test_begin_and_end_are_announced_once(served, visit) -> None:
    visitor = visit(served, "Write")
    visitor.set("Length", "24")
    heard = len(visitor.announced())
    visitor.write("The cat")
    visitor.wait_for_status("Finished")
    visitor.wait_for("count => window.probes.announced.length >= count", heard + 2)
    begin, end = visitor.announced()[heard:]
    assert begin == "Begun"
    assert end.startswith("Finished")


def test_an_error_is_announced_once(served, visit) -> None:
    visitor = visit(served, "Write")
    heard = len(visitor.announced())
    visitor.write("a little cat " * 600)
    visitor.wait_for_status("prompt has")
    visitor.wait_for("count => window.probes.announced.length >= count", heard + 2)
    assert len([said for said in visitor.announced()[heard:] if "prompt has" in said]) == 1
