"""The page by the keyboard alone: every flow, and the focus is never lost."""

from __future__ import annotations

import pytest

from tests.app.browser.visitor import Visitor

START = "Once upon a time"
QUESTION = "Where is the cat?"
MOST_TABS = 60
FOCUSED = """() => {
    const at = document.activeElement;
    const label = at.labels?.[0]?.textContent || at.getAttribute("aria-label") || at.textContent || "";
    // Of a button's name, without the keys that do the same.
    const name = label.replace(/(Ctrl.*|Esc)$/, "").trim().slice(0, 60);
    return [at.getAttribute("role") ?? at.tagName.toLowerCase(), name];
}"""


class Typist(Visitor):
    """Who has no mouse."""

    def keys(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def type(self, text: str) -> None:
        self.page.keyboard.type(text)

    def focused(self) -> tuple[str, str]:
        """The role and the name of what has the focus."""
        return tuple(self.page.evaluate(FOCUSED))

    def tab_to(self, name: str, key: str = "Tab") -> None:
        """Press Tab until something of this name has the focus."""
        passed = []
        for _ in range(MOST_TABS):
            if self.focused()[1] == name:
                return
            passed.append(self.focused())
            self.keys(key)
        raise AssertionError(f"{name} is not reached by {key}: {passed}")

    def lost(self) -> list[str]:
        """What had the focus when it was lost."""
        self.page.wait_for_timeout(60)
        return self.page.evaluate("window.probes.lost")


@pytest.fixture
def come(browser):
    contexts = []

    def come(to, width: int = 1280) -> Typist:
        context = browser.new_context(viewport={"width": width, "height": 800})
        contexts.append(context)
        typist = Typist(context, to.url)
        typist.open()
        typist.page.evaluate("window.probes.isFocusWatched = true")
        return typist

    yield come
    for context in contexts:
        context.close()


def test_a_chat_of_two_turns_with_edit_and_regenerate(served, come) -> None:
    visitor = come(served)
    assert visitor.focused()[1] == "Message"
    visitor.type(QUESTION)
    visitor.keys("Enter")
    visitor.wait_for_status("Finished")
    assert visitor.focused()[1] == "Message"
    visitor.type("And the dog?")
    visitor.keys("Enter")
    visitor.button("Regenerate").wait_for()
    visitor.wait_for_status("Finished")
    assert len(visitor.messages()) == 4

    visitor.tab_to("Regenerate", "Shift+Tab")
    visitor.keys("Enter")
    visitor.panel.get_by_text("2/2").wait_for()
    visitor.wait_for_status("Finished")
    visitor.tab_to("Previous version", "Shift+Tab")
    visitor.keys("Enter")
    visitor.panel.get_by_text("1/2").wait_for()

    visitor.tab_to("Edit", "Shift+Tab")
    visitor.keys("Enter")
    assert visitor.focused()[1] == "Edit the message"
    visitor.keys("Escape")
    visitor.tab_to("Edit", "Shift+Tab")
    visitor.keys("Enter", "Control+A")
    visitor.type("Who is there?")
    visitor.keys("Enter")
    visitor.wait_for_status("Finished")
    assert "Who is there?" in visitor.messages()
    assert visitor.lost() == []


def test_an_answer_is_stopped_by_escape_and_continued(gated, come) -> None:
    visitor = come(gated)
    visitor.type(QUESTION)
    visitor.keys("Enter")
    gated.let(12)
    visitor.wait_for_status("Writing")
    visitor.keys("Escape")
    visitor.wait_for_status("Stopped")
    assert visitor.focused()[1] == "Message"
    visitor.tab_to("Continue", "Shift+Tab")
    visitor.keys("Enter")
    gated.let(12)
    visitor.wait_for_status("Writing")
    visitor.tab_to("Stop")
    visitor.keys("Enter")
    visitor.wait_for_status("Stopped")
    assert visitor.lost() == []


def test_a_text_is_written_stopped_undone_and_tried_again(gated, come) -> None:
    visitor = come(gated)
    visitor.tab_to("Chat", "Shift+Tab")
    visitor.keys("ArrowLeft")
    assert visitor.focused() == ("tab", "Write")
    visitor.tab_to("Your text")
    visitor.type(START)
    visitor.keys("Control+Enter")
    gated.let(6)
    visitor.wait_for_text(len(START))
    visitor.keys("Escape")
    visitor.wait_for_status("Stopped")
    assert visitor.focused()[1] == "Your text"
    visitor.tab_to("Again")
    visitor.keys("Enter")
    gated.let(6)
    visitor.wait_for_text(len(START))
    assert visitor.focused()[0] != "body"
    visitor.keys("Escape")
    visitor.wait_for_status("Stopped")
    visitor.panel.get_by_text("2/2").wait_for()
    visitor.tab_to("Previous alternative", "Tab")
    visitor.keys("Enter")
    visitor.panel.get_by_text("1/2").wait_for()
    visitor.tab_to("Undo", "Shift+Tab")
    visitor.keys("Enter")
    assert visitor.text == START
    visitor.tab_to("Continue", "Tab")
    visitor.keys("Enter")
    gated.let(3)
    visitor.wait_for_text(len(START))
    assert visitor.focused()[1] == "Stop"
    visitor.keys("Enter")
    visitor.wait_for_status("Stopped")
    assert visitor.lost() == []


def test_the_drawer_opens_is_set_and_closes(served, come) -> None:
    visitor = come(served)
    opener = visitor.page.locator("#drawer-button")
    opener.focus()
    visitor.keys("Enter")
    assert visitor.focused() == ("radio", "Balanced")
    visitor.keys("ArrowRight")
    assert visitor.focused() == ("radio", "Wild")
    visitor.tab_to("Temperature")
    visitor.keys("Control+A")
    visitor.type("0.5")
    visitor.tab_to("Advanced")
    visitor.keys("Enter")
    visitor.tab_to("Stop strings")
    visitor.type("The end")
    visitor.tab_to("Reset", "Shift+Tab")
    visitor.keys("Enter")
    assert visitor.focused() == ("radio", "Balanced")
    visitor.keys("Escape")
    assert visitor.page.locator("#drawer").is_hidden()
    assert opener.evaluate("button => button === document.activeElement")
    assert visitor.lost() == []


def test_the_precision_and_the_theme_are_chosen(served, come) -> None:
    visitor = come(served)
    visitor.tab_to("Precision", "Shift+Tab")
    visitor.keys("ArrowDown")
    visitor.tab_to("Dark")
    visitor.keys("Enter")
    assert visitor.focused()[1] == "Light"
    visitor.keys("Space")
    assert visitor.focused()[1] == "Dark"
    assert visitor.lost() == []


def test_tab_goes_round_the_whole_page(served, come) -> None:
    """Everything that can be pressed is reached, in one round, and nothing holds the focus."""
    visitor = come(served)
    visitor.type(QUESTION)
    visitor.keys("Enter")
    visitor.wait_for_status("Finished")
    reached = {visitor.focused()}
    for _ in range(MOST_TABS):
        visitor.keys("Tab")
        reached.add(visitor.focused())
    shown = visitor.page.locator("button:visible:not(:disabled):not([role]), select:visible, textarea:visible")
    names = {
        control.evaluate(f"control => ({FOCUSED.replace('document.activeElement', 'control')})()")[1]
        for control in shown.all()
    }
    assert names <= {name for _, name in reached}


def test_what_has_the_focus_is_seen(served, come) -> None:
    visitor = come(served)
    unseen = []
    for _ in range(20):
        visitor.keys("Tab")
        is_seen = visitor.page.evaluate(
            """() => {
                let at = document.activeElement;
                if (at === document.body) return true;
                if (at.matches("textarea") && getComputedStyle(at).caretColor !== "rgba(0, 0, 0, 0)") return true;
                for (; at && at !== document.body; at = at.parentElement) {
                    const { outlineStyle, outlineWidth } = getComputedStyle(at);
                    if (outlineStyle !== "none" && parseFloat(outlineWidth) >= 1) return true;
                }
                return false;
            }"""
        )
        if not is_seen:
            unseen.append(visitor.focused())
    assert not unseen
