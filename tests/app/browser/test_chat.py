"""Chat: a conversation with the model."""

from __future__ import annotations

import pytest

QUESTION = "Where is the cat?"


def answered(visitor, question: str = QUESTION) -> str:
    """Ask, and read the answer when it is whole."""
    before = len(visitor.messages())
    visitor.ask(question)
    visitor.button("Regenerate").wait_for()
    found = visitor.messages()
    assert found[before] == question
    return found[before + 1]


def chat(visit, page, length: int = 12):
    visitor = visit(page, "Chat")
    visitor.set("Length", str(length))
    visitor.page.keyboard.press("Escape")
    return visitor


def test_the_page_opens_on_chat_and_one_click_has_an_answer(served, visit) -> None:
    visitor = visit(served)
    assert visitor.tab == "Chat"
    example = visitor.panel.locator(".chip").first
    question = example.inner_text()
    example.click()
    visitor.wait_for_status("Finished")
    found = visitor.messages()
    assert found[0] == question
    assert found[1]
    assert "tokens/s" in visitor.panel.locator(".cost").inner_text()


def test_two_turns_with_an_edit_and_another_answer(served, visit) -> None:
    visitor = chat(visit, served)
    first = answered(visitor)
    second = answered(visitor, "And the dog?")
    assert visitor.messages() == [QUESTION, first, "And the dog?", second]

    visitor.press("Regenerate")
    visitor.panel.get_by_text("2/2").wait_for()
    visitor.button("Regenerate").wait_for()
    assert visitor.messages()[:3] == [QUESTION, first, "And the dog?"]
    visitor.press("Previous version")
    assert visitor.messages()[3] == second

    visitor.press("Edit")
    area = visitor.panel.get_by_label("Edit the message")
    assert area.input_value() == QUESTION
    area.fill("Who is there?")
    area.press("Enter")
    visitor.button("Regenerate").wait_for()
    found = visitor.messages()
    assert len(found) == 2
    assert found[0] == "Who is there?"
    visitor.press("Previous version")
    assert visitor.messages() == [QUESTION, first, "And the dog?", second]


def test_the_model_reads_the_turns_before(served, visit) -> None:
    visitor = chat(visit, served)
    visitor.set("Regular expression", "On the mat")
    first = answered(visitor)
    visitor.field.fill("And the dog?")
    with visitor.page.expect_request("**/page/chat") as sent:
        visitor.field.press("Enter")
    assert [(m["role"], m["content"]) for m in sent.value.post_data_json["messages"]] == [
        ("user", QUESTION),
        ("assistant", first),
        ("user", "And the dog?"),
    ]


def test_an_answer_that_was_stopped_is_kept_and_continued(gated, visit) -> None:
    visitor = visit(gated, "Chat")
    visitor.ask(QUESTION)
    gated.let(12)
    answer = visitor.panel.locator("article").nth(1).locator(".text")
    visitor.wait_for("() => document.querySelectorAll('article .text')[1].innerText.length > 4")
    visitor.press("Stop")
    visitor.wait_for_status("Stopped")
    kept = answer.inner_text()
    assert kept
    gated.go()
    visitor.set("Length", "12")
    visitor.press("Continue")
    visitor.wait_for_status("Finished")
    assert answer.inner_text().startswith(kept.rstrip("."))
    assert len(answer.inner_text()) > len(kept)
    assert len(visitor.messages()) == 2


def test_who_waits_in_line_leaves_at_once_and_loses_no_question(gated, visit) -> None:
    first, second = visit(gated, "Chat"), visit(gated, "Chat")
    first.ask(QUESTION)
    gated.let(2)
    second.ask("Me too?")
    second.wait_for_status("1st")
    second.press("Leave")
    second.wait_for_status("Stopped")
    assert "Me too?" in [*second.messages(), second.text]
    second.button("Send").wait_for()
    assert gated.state()["texts"] == 1
    first.press("Stop")


def test_enter_sends_and_shift_enter_breaks_the_line(served, visit) -> None:
    visitor = chat(visit, served)
    visitor.field.press_sequentially("One")
    visitor.field.press("Shift+Enter")
    visitor.field.press_sequentially("two")
    assert visitor.text == "One\ntwo"
    assert visitor.messages() == []
    visitor.field.press("Enter")
    visitor.wait_for_status("Finished")
    assert visitor.messages()[0] == "One\ntwo"
    assert visitor.text == ""


def test_a_system_message_goes_before_the_conversation(served, visit) -> None:
    visitor = chat(visit, served)
    visitor.panel.get_by_text("System message").click()
    visitor.panel.get_by_label("System message").fill("Speak like a cat.")
    visitor.field.fill(QUESTION)
    with visitor.page.expect_request("**/page/chat") as sent:
        visitor.field.press("Enter")
    assert sent.value.post_data_json["messages"][0] == {"role": "system", "content": "Speak like a cat."}
    visitor.wait_for_status("Finished")


@pytest.mark.usefixtures("shared_data")  # the tiny model's context holds no two of these
def test_a_full_context_says_what_is_forgotten(served, visit) -> None:
    visitor = chat(visit, served)
    for turn in range(4):
        visitor.ask(f"{turn} " + "a little cat sat on the mat " * 14)
        visitor.wait_for_status("Finished")
    divider = visitor.panel.get_by_role("separator")
    divider.wait_for()
    assert "oldest messages forgotten" in divider.inner_text()


def test_a_new_chat_begins_with_nothing(served, visit) -> None:
    visitor = chat(visit, served)
    answered(visitor)
    visitor.press("New chat")
    assert visitor.messages() == []
    visitor.reload()
    assert visitor.messages() == []


def test_an_answer_is_copied_as_it_was_written(served, visit) -> None:
    visitor = chat(visit, served)
    visitor.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visitor.set("Regular expression", r"\*\*bold\*\* words")
    answered(visitor)
    visitor.press("Copy", nth=1)
    visitor.button("Copied").wait_for()
    assert visitor.page.evaluate("navigator.clipboard.readText()") == "**bold** words"
