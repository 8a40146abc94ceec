"""Text that looks like a program is text: in prompts, in answers, in settings, in what a reload brings back."""

from __future__ import annotations

import re

import pytest

ATTACKS = [
    "<script>window.owned = 1</script>",
    '<img src=x onerror="window.owned = 1">',
    "<svg onload=window.owned=1>",
    '<iframe srcdoc="<script>parent.owned = 1</script>"></iframe>',
    "</textarea><script>window.owned = 1</script>",
]
LINKS = [
    "[click](javascript:window.owned=1)",
    "[click](JaVaScRiPt:window.owned=1)",
    "[click](data:text/html,<script>parent.owned=1</script>)",
    "![picture](x:y onerror=window.owned=1)",
    "<a href='javascript:window.owned=1'>click</a>",
]
MARKDOWN = (
    "## **<b>bold</b>** `<img src=x>` | <i>x</i>\n\n"
    "- <script>window.owned=1</script>\n"
    "> <img src=x onerror=window.owned=1>"
)


def regex_of(text: str) -> str:
    """A regular expression that nothing but the text fits, for a model to say it."""
    return "".join(rf"\{char}" if char in r"\.+*?()|[]{}^$/-&~#" else char for char in text).replace("\n", "\\n")


def assert_nothing_ran(visitor) -> None:
    assert visitor.page.evaluate("window.owned") is None
    panel = visitor.panel
    assert panel.locator("script, img, iframe, object, embed, b, i, [onerror], [onload]").count() == 0
    targets = panel.locator("a").evaluate_all("links => links.map(link => link.protocol)")
    assert set(targets) <= {"http:", "https:", "mailto:"}


def say(visitor, text: str) -> str:
    """Have the model answer with this text."""
    visitor.set("Regular expression", regex_of(text))
    visitor.ask("What do you say?")
    visitor.wait_for_status("Finished")
    return visitor.messages()[-1]


@pytest.mark.usefixtures("shared_data")  # the tiny model's context is too short
def test_a_prompt_with_html_is_shown_as_it_was_typed(served, visit) -> None:
    visitor = visit(served, "Chat")
    visitor.set("Length", "8")
    question = "\n".join(ATTACKS + LINKS)
    visitor.ask(question)
    visitor.wait_for_status("Finished")
    assert visitor.messages()[0] == question
    assert_nothing_ran(visitor)
    visitor.reload()
    assert visitor.messages()[0] == question
    assert_nothing_ran(visitor)


def test_an_answer_with_html_is_shown_as_it_was_written(served, visit) -> None:
    visitor = visit(served, "Chat")
    for attack in ATTACKS:
        assert say(visitor, attack) == attack
        assert_nothing_ran(visitor)
    visitor.reload()
    assert visitor.messages()[-1] == ATTACKS[-1]
    assert_nothing_ran(visitor)


@pytest.mark.parametrize("text", LINKS)
def test_a_link_of_an_answer_runs_nothing(served, visit, text) -> None:
    visitor = visit(served, "Chat")
    say(visitor, text)
    assert visitor.panel.locator("article.answer a, article.answer img").count() == 0
    assert_nothing_ran(visitor)


def test_a_link_of_an_answer_leads_to_the_web_without_telling_from_where(served, visit) -> None:
    visitor = visit(served, "Chat")
    say(visitor, "See [this](https://example.com/a) page")
    link = visitor.panel.locator("article.answer a")
    assert link.get_attribute("href") == "https://example.com/a"
    assert {"noopener", "noreferrer"} <= set(link.get_attribute("rel").split())


def test_markdown_is_drawn_and_the_html_in_it_is_text(served, visit) -> None:
    visitor = visit(served, "Chat")
    found = say(visitor, MARKDOWN)
    assert "<script>window.owned=1</script>" in found
    answer = visitor.panel.locator("article.answer")
    assert answer.locator("strong").inner_text() == "<b>bold</b>"
    assert answer.locator("code").inner_text() == "<img src=x>"
    assert answer.locator("li").inner_text() == "<script>window.owned=1</script>"
    assert_nothing_ran(visitor)


def test_code_in_an_answer_has_a_copy_of_its_own(served, visit) -> None:
    visitor = visit(served, "Chat")
    visitor.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    say(visitor, "Thus:\n\n```html\n<b>1 &amp; 2</b>\n```")
    code = visitor.panel.locator("article.answer pre")
    assert code.inner_text().strip() == "<b>1 &amp; 2</b>"
    visitor.panel.locator(".code").get_by_role("button", name="Copy").click()
    assert visitor.page.evaluate("navigator.clipboard.readText()") == "<b>1 &amp; 2</b>"


@pytest.mark.parametrize("text", ATTACKS)
def test_the_sheet_takes_html_as_text(served, visit, text) -> None:
    visitor = visit(served, "Write")
    visitor.set("Regular expression", regex_of(text))
    visitor.write(text)
    visitor.wait_for_status("Finished")
    assert visitor.text == text + text
    assert_nothing_ran(visitor)
    visitor.reload()
    assert visitor.text == text + text
    assert_nothing_ran(visitor)


def test_a_models_name_is_text(page_bundle, visit) -> None:
    from tests.app.browser.served_page import serve

    name = "</script><img src=x onerror=window.owned=1>"
    with serve(page_bundle, "--model-name", name) as served:
        visitor = visit(served)
        assert name in visitor.page.locator("header.top").inner_text()
        assert re.search(r"<img", visitor.page.title())
        assert visitor.page.locator("img").count() == 0
        assert visitor.page.evaluate("window.owned") is None
