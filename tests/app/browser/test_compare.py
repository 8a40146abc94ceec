"""Compare: columns in turn, what differs, stop, what a reload brings back, and a column that is used from then on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.app.browser.served_page import serve
from tests.app.browser.visitor import PHONE
from tests.conftest import SHARED_DATA
from tests.runtime.files import edit_json

# Of three precisions, and with the figures of these weights.
pytestmark = pytest.mark.usefixtures("shared_data")


def run(visitor, prompt: str = "Once upon a time") -> None:
    visitor.panel.get_by_role("textbox", name="Prompt").fill(prompt)
    visitor.press("Compare")
    visitor.button("Compare").wait_for(timeout=60_000)


def choose(visitor, column: int, what: str, value: str) -> None:
    visitor.panel.get_by_role("combobox", name=f"{what} of column {column}").select_option(value)


def columns(visitor):
    return visitor.panel.get_by_role("article")


def text(visitor, column: int) -> str:
    return visitor.panel.get_by_role("region", name=f"Text of column {column}").inner_text()


def greedy(visitor, *precisions: str) -> None:
    for column, precision in enumerate(precisions, 1):
        choose(visitor, column, "Precision", precision)
        choose(visitor, column, "Settings", "Greedy")


def test_equal_columns_say_that_they_are(served, visit):
    visitor = visit(served, "Compare")
    greedy(visitor, "int8", "int8")
    run(visitor)
    assert text(visitor, 1) == text(visitor, 2)
    columns(visitor).nth(1).get_by_text("are the same").wait_for()
    assert columns(visitor).nth(1).locator("mark").count() == 0


def test_the_first_token_that_differs_is_marked_and_what_follows_tinted(served, visit):
    visitor = visit(served, "Compare")
    choose(visitor, 1, "Settings", "Greedy")
    choose(visitor, 2, "Settings", "Wild")
    run(visitor)
    second = columns(visitor).nth(1)
    mark, after = second.locator("mark").inner_text(), second.locator(".after").inner_text()
    whole, first = text(visitor, 2), text(visitor, 1)
    same = whole[: len(whole) - len(after) - len(mark)]
    assert first.startswith(same.rstrip())
    assert not first.startswith(same + mark + after)
    assert second.locator(".lane-state").inner_text().startswith(("The same for", "From the first"))


def test_the_same_seed_gives_the_same_text_in_each_column(served, visit):
    visitor = visit(served, "Compare")
    for column in (1, 2):
        choose(visitor, column, "Precision", "int8")
        choose(visitor, column, "Settings", "Wild")
    run(visitor)
    assert text(visitor, 1) == text(visitor, 2) != ""
    first = text(visitor, 1)
    run(visitor)
    assert text(visitor, 1) != first


def test_figures_stand_below_each_column(served, visit):
    visitor = visit(served, "Compare")
    greedy(visitor, "fp32", "q8")
    run(visitor)
    for column in columns(visitor).all():
        figures = dict(zip(column.locator("dt").all_inner_texts(), column.locator("dd").all_inner_texts(), strict=True))
        assert float(figures["tokens/s"].replace(",", "")) > 0
        assert figures["to first token"].endswith("s")
        assert figures["of weights"].endswith("MB")
        assert float(figures["KL, nats"]) >= 0
        assert float(figures["perplexity"]) > 1


def test_a_column_is_added_and_removed(served, visit):
    visitor = visit(served, "Compare")
    visitor.press("Add a column")
    assert columns(visitor).count() == 3
    assert visitor.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Precision of column 3"
    visitor.press("Remove column 3")
    assert columns(visitor).count() == 2


def test_a_reload_brings_back_prompt_columns_texts_and_figures(served, visit):
    visitor = visit(served, "Compare")
    greedy(visitor, "int8", "q8")
    visitor.press("Add a column")
    run(visitor)
    before = [column.inner_text() for column in columns(visitor).all()]
    visitor.reload()
    visitor.wait_for("() => document.querySelectorAll('#compare dd').length === 15")
    assert [column.inner_text() for column in columns(visitor).all()] == before
    assert visitor.panel.get_by_role("textbox", name="Prompt").input_value() == "Once upon a time"


def test_stop_ends_the_column_and_those_that_wait(gated, visit):
    visitor = visit(gated, "Compare")
    greedy(visitor, "int8", "int8")
    visitor.panel.get_by_role("textbox", name="Prompt").fill("Once")
    visitor.press("Compare")
    columns(visitor).nth(1).get_by_text("Waits for its turn").wait_for()
    gated.let(4)
    visitor.wait_for_status("Column 1 of 2")
    visitor.press("Stop")
    visitor.button("Compare").wait_for()
    columns(visitor).nth(0).get_by_text("Stopped").wait_for()
    assert columns(visitor).nth(1).get_by_text("Waits for its turn").count() == 0
    gated.wait_until_idle()


def test_a_column_in_line_says_so_and_may_be_left(gated, visit):
    first = visit(gated, "Write")
    first.write("Once")
    gated.let(2)
    visitor = visit(gated, "Compare")
    greedy(visitor, "int8", "int8")
    visitor.panel.get_by_role("textbox", name="Prompt").fill("Once")
    visitor.press("Compare")
    columns(visitor).nth(0).get_by_text("1st in line").wait_for()
    visitor.press("Leave")
    visitor.button("Compare").wait_for()
    first.press("Stop")


def test_a_column_is_used_from_then_on(served, visit):
    visitor = visit(served, "Compare")
    greedy(visitor, "fp32", "q8")
    columns(visitor).nth(1).get_by_role("button").last.click()
    columns(visitor).nth(1).get_by_role("button", name="In use").wait_for()
    assert visitor.page.locator("#precision").input_value() == "q8"
    visitor.choose_tab("Write")
    assert visitor.setting("Temperature") == "0"


def test_what_fails_in_one_column_leaves_the_others(served, visit):
    visitor = visit(served, "Compare")
    greedy(visitor, "int8", "q8")
    visitor.page.route(
        "**/page/compare", lambda route: route.abort() if "q8" in route.request.post_data else route.continue_()
    )
    visitor.expect_complaints("Failed to load resource")
    run(visitor)
    assert text(visitor, 1)
    columns(visitor).nth(1).get_by_text("The server does not answer").wait_for()


def test_html_is_text(served, visit):
    visitor = visit(served, "Compare")
    greedy(visitor, "int8", "q8")
    run(visitor, "<img src=x onerror=\"document.title='owned'\"> <b>once</b>")
    assert visitor.panel.locator("img, b").count() == 0
    assert "owned" not in visitor.page.title()


def test_the_keyboard_alone_suffices(served, visit):
    visitor = visit(served, "Compare")
    greedy(visitor, "int8", "q8")
    visitor.page.evaluate("window.probes.isFocusWatched = true")
    visitor.panel.get_by_role("textbox", name="Prompt").focus()
    visitor.page.keyboard.type("Once upon a time")
    visitor.page.keyboard.press("Enter")
    visitor.button("Compare").wait_for(timeout=60_000)
    columns(visitor).nth(1).locator(".lane-state", has_text="token").wait_for()
    assert visitor.page.evaluate("window.probes.lost") == []
    assert visitor.announced()[-2:] == ["Begun", "Every column has ended"]


def test_on_a_phone_columns_are_swiped_and_stop_is_in_sight(gated, visit):
    visitor = visit(gated, "Compare", **PHONE)
    visitor.panel.get_by_role("textbox", name="Prompt").fill("Once")
    visitor.press("Compare")
    gated.let(1)
    box = visitor.button("Stop").bounding_box()
    assert box["y"] + box["height"] <= 844
    assert visitor.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert visitor.page.evaluate(
        "(() => { const l = document.querySelector('.lanes'); return l.scrollWidth > l.clientWidth; })()"
    )
    assert visitor.page.evaluate("[...document.querySelectorAll('.lane')].every(l => l.scrollWidth <= l.clientWidth)")
    visitor.press("Stop")
    visitor.button("Compare").wait_for()


def test_pytorch_is_a_column_where_its_checkpoint_is(page_bundle, visit, tmp_path_factory):
    pytest.importorskip("torch", reason="PyTorch's column needs torch")
    if not SHARED_DATA.is_dir():
        pytest.skip("the checkpoint is not at hand (../shared/data)")
    folder = link(page_bundle, tmp_path_factory.mktemp("torch") / "stories")
    edit_json(folder / "manifest.json", source=str(SHARED_DATA / "stories260k"))
    with serve(folder) as page:
        page.wait_until_ready()
        visitor = visit(page, "Compare")
        visitor.wait_for("() => document.querySelector('#compare option[value=pytorch]')")
        greedy(visitor, "pytorch", "fp32")
        run(visitor)
        columns(visitor).nth(1).get_by_text("are the same").wait_for()
        visitor.page.close()


def link(bundle: Path, to: Path) -> Path:
    """A copy whose manifest may be changed."""
    return Path(shutil.copytree(bundle, to))
