"""A server that fails, goes away and comes back; what a visitor reads then."""

from __future__ import annotations

import shutil
import signal

import pytest

from tests.app.browser.served_page import serve
from tests.conftest import REPOSITORY

START = "Once upon a time, there was"
OFFLINE = ("Failed to load resource", "ERR_")
NOTICE_SECONDS = 3


def banner(visitor):
    return visitor.page.locator("#banner")


def wait_for_banner(visitor, text: str, seconds: float = 10) -> str:
    found = banner(visitor).filter(has_text=text)
    found.wait_for(timeout=seconds * 1000)
    return found.inner_text()


def test_a_server_that_went_away_is_said_and_found_again(page_bundle, visit) -> None:
    with serve(page_bundle) as served:
        visitor = visit(served, "Write")
        visitor.expect_complaints(*OFFLINE)
        visitor.set("Length", "8")
        visitor.field.fill(START)
        served.wait_until_ready()
        banner(visitor).wait_for(state="hidden")
        served.process.kill()
        served.process.wait()
        wait_for_banner(visitor, "does not answer", NOTICE_SECONDS)
        visitor.press("Reconnect")
        wait_for_banner(visitor, "does not answer")
        assert visitor.text == START
    with serve(page_bundle, port=int(served.url.rpartition(":")[2])) as served:
        served.wait_until_ready()
        # The page may have found it by itself already, and the button is gone with its message.
        visitor.page.evaluate("document.querySelector('#banner button')?.click()")
        banner(visitor).wait_for(state="hidden")
        visitor.press("Continue")
        visitor.wait_for_status("Finished")
        assert visitor.text.startswith(START)


def test_a_server_that_hangs_is_said(page_bundle, visit) -> None:
    with serve(page_bundle) as served:
        visitor = visit(served)
        visitor.expect_complaints(*OFFLINE)
        served.wait_until_ready()
        banner(visitor).wait_for(state="hidden")
        served.process.send_signal(signal.SIGSTOP)
        try:
            wait_for_banner(visitor, "does not answer", NOTICE_SECONDS)
        finally:
            served.process.send_signal(signal.SIGCONT)
        banner(visitor).wait_for(state="hidden")


def test_a_text_that_the_server_left_is_kept_and_can_go_on(page_bundle, visit, tmp_path) -> None:
    with serve(page_bundle, gate=tmp_path) as served:
        served.wait_until_ready()
        visitor = visit(served, "Write")
        visitor.expect_complaints(*OFFLINE)
        served.hold()
        visitor.write(START)
        served.let(8)
        kept = visitor.wait_for_text(len(START))
        served.process.kill()
        visitor.wait_for_status("does not answer")
        assert visitor.text.startswith(kept)
        visitor.button("Continue").wait_for()


def test_a_model_that_cannot_be_opened_is_said_and_the_page_lives(page_bundle, visit, tmp_path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(page_bundle, folder)
    graph = folder / "onnx" / "model_int8.onnx"
    graph.write_bytes(b"\x08" * graph.stat().st_size)
    with serve(folder) as served:
        visitor = visit(served, "Write")
        visitor.expect_complaints("Failed to load resource")
        said = wait_for_banner(visitor, "cannot be opened")
        assert "Traceback" not in said
        assert len(said) < 400
        visitor.write(START)
        visitor.panel.locator(".status.error").wait_for()
        assert visitor.text == START
        # Another precision is whole.
        visitor.page.get_by_label("Precision", exact=True).select_option("fp32")
        visitor.set("Length", "8")
        visitor.press("Continue")
        visitor.wait_for_status("Finished")
        assert served.process.poll() is None


def test_a_model_without_a_chat_template_says_why_there_is_no_chat(page_bundle, visit, tmp_path) -> None:
    folder = tmp_path / "plain"
    shutil.copytree(page_bundle, folder)
    template = folder / "chat_template.jinja"
    if not template.is_file():
        pytest.skip("the tiny bundle's template is in a file whose size its manifest knows")
    template.unlink()
    with serve(folder) as served:
        visitor = visit(served)
        assert visitor.tab == "Write"
        visitor.choose_tab("Chat")
        said = visitor.panel.inner_text()
        assert "chat" in said
        assert "template" in said
        assert str(REPOSITORY) not in said
        assert str(tmp_path) not in said


def test_a_prompt_that_is_too_long_is_refused_in_words(served, visit) -> None:
    visitor = visit(served, "Write")
    prompt = "a little cat " * 600
    visitor.field.fill(prompt)
    with visitor.page.expect_response("**/page/continue") as answer:
        visitor.press("Continue")
    visitor.wait_for_status("prompt has")
    assert "little cat" not in answer.value.text()
    assert visitor.text == prompt
    visitor.field.fill(START)
    visitor.set("Length", "8")
    visitor.press("Continue")
    visitor.wait_for_status("Finished")


@pytest.mark.parametrize("tab", ["Write", "Chat"])
def test_a_prompt_of_a_megabyte_is_refused_and_not_echoed(served, visit, tab) -> None:
    visitor = visit(served, tab)
    visitor.expect_complaints("413")
    visitor.field.fill("1234567 " * 2**17)
    with visitor.page.expect_response("**/page/c*", timeout=5000) as answer:
        visitor.press("Continue" if tab == "Write" else "Send")
    said = visitor.panel.locator(".status.error")
    said.wait_for()
    assert answer.value.status == 413
    assert "1234567" not in answer.value.text()
    assert "1234567" not in said.inner_text()
    assert len(visitor.text) >= 2**20 - 1


def test_too_many_texts_of_one_address_are_refused_in_words(gated, visit) -> None:
    visitors = [visit(gated, "Write") for _ in range(5)]
    for visitor in visitors[:4]:
        visitor.write(START)
        gated.let(1)
    visitors[1].wait_for_status("1st")
    visitors[3].wait_for_status("3rd")
    visitors[4].expect_complaints("429")
    visitors[4].write(START)
    visitors[4].wait_for_status("under way for your address")
    assert visitors[4].text == START
    for visitor in visitors[:4]:
        visitor.button("Stop").or_(visitor.button("Leave")).click()
