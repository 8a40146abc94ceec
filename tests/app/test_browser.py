"""The page in a real browser: type, stream, stop, leave."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Without a sandbox, because tests often run as root in a container; and without the browser's own errands.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = "<img src=x onerror=\"document.title='owned'\"> ${document.title='owned'} {{value}} <b>bold</b> & so on"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (requirements-dev.txt)")
    if CHROMIUM is None:
        pytest.skip("there is no chromium (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass(frozen=True)
class SlowPage:
    """A served page, and the folder through which it is slowed down and its forward calls are counted."""

    url: str
    folder: Path

    def be_slow(self, is_slow: bool) -> None:
        (self.folder / "slow").touch() if is_slow else (self.folder / "slow").unlink(missing_ok=True)

    def fail_next(self) -> None:
        (self.folder / "fail").touch()

    def is_computing(self) -> bool:
        """Whether calls still come, after what was under way has had time to end."""
        time.sleep(0.5)
        before = self.calls()
        time.sleep(0.5)
        return self.calls() > before

    def calls(self) -> int:
        path = self.folder / "calls"
        return path.stat().st_size if path.exists() else 0


@pytest.fixture(scope="module")
def served(bundle_folder, module_port, tmp_path_factory) -> Iterator[SlowPage]:
    folder = tmp_path_factory.mktemp("slow-page")
    command = [sys.executable, str(Path(__file__).with_name("slow_page.py")), bundle_folder, str(module_port), folder]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield SlowPage(f"http://127.0.0.1:{module_port}", folder)
        process.kill()


@pytest.fixture
def slow_page(served) -> SlowPage:
    served.be_slow(True)
    return served


@pytest.fixture
def page(browser, slow_page) -> Iterator:
    page = browser.new_page()
    page.set_default_timeout(10_000)
    page.goto(slow_page.url)
    page.wait_for_selector("#generate")
    yield page
    page.close()


def type_and_generate(page, prompt: str) -> None:
    page.locator("#prompt textarea").fill(prompt)
    page.click("#generate")


def wait_for_text(page, element: str, text: str) -> None:
    page.wait_for_function("([id, text]) => document.querySelector(id).innerText.includes(text)", arg=[element, text])


def wait_for_length(page, length: int) -> int:
    page.wait_for_function("length => document.querySelector('#story').innerText.length > length", arg=length)
    return len(page.locator("#story").inner_text())


def test_type_stream_and_stop(page, slow_page) -> None:
    assert page.locator("#stop").is_disabled()
    assert page.locator("#seed input").input_value() == ""
    type_and_generate(page, "The cat")
    first = wait_for_length(page, len("The cat"))
    wait_for_length(page, first)
    assert page.locator("#story .prompt").inner_text() == "The cat"
    assert page.locator("#generate").is_disabled()

    page.click("#stop")
    wait_for_text(page, "#status", "Stopped")
    stopped = page.locator("#story").inner_text()
    assert not slow_page.is_computing()
    assert page.locator("#story").inner_text() == stopped
    assert page.locator("#stop").is_disabled()
    assert page.locator("#generate").is_enabled()
    assert "tokens/s" in page.locator("#status").inner_text()


def test_another_precision_and_a_finished_text(page, slow_page) -> None:
    slow_page.be_slow(False)
    page.locator("#precision input").click()
    page.get_by_role("option", name="fp32").click()
    type_and_generate(page, "")
    wait_for_text(page, "#status", "Finished")
    assert "fp32" in page.locator("#status").inner_text()
    page.wait_for_selector("#generate:enabled")
    assert page.locator("#stop").is_disabled()


def test_a_visitor_who_leaves_costs_nothing_more(browser, slow_page) -> None:
    page = browser.new_page()
    page.goto(slow_page.url)
    type_and_generate(page, "The cat")
    wait_for_length(page, len("The cat"))
    page.close()
    assert not slow_page.is_computing()


def test_a_second_visitor_waits_and_may_stop_waiting(browser, page, slow_page) -> None:
    type_and_generate(page, "The cat")
    wait_for_length(page, len("The cat"))
    second = browser.new_page()
    second.goto(slow_page.url)
    type_and_generate(second, "A mouse")
    wait_for_text(second, "#status", "Waiting")
    second.click("#stop")
    page.click("#stop")
    wait_for_text(page, "#status", "Stopped")
    wait_for_text(second, "#status", "0 tokens")
    second.close()
    assert not slow_page.is_computing()


def test_html_in_a_prompt_is_text(page) -> None:
    type_and_generate(page, HOSTILE)
    wait_for_length(page, len(HOSTILE))
    assert page.locator("#story .prompt").inner_text() == HOSTILE
    assert page.locator("#story img").count() == 0
    assert page.title() == "tiny · SmolText"
    page.click("#stop")


def test_a_mistake_is_said_and_the_page_goes_on(page, slow_page) -> None:
    slow_page.be_slow(False)
    type_and_generate(page, "mouse " * 500)
    wait_for_text(page, "#status", "The prompt has")
    page.wait_for_selector("#generate:enabled")
    type_and_generate(page, "A short one")
    wait_for_text(page, "#status", "Finished")


def test_a_fault_of_ours_is_said_too(page, slow_page) -> None:
    slow_page.fail_next()
    type_and_generate(page, "The cat")
    wait_for_text(page, "#status", "This page failed")
    page.wait_for_selector("#generate:enabled")


def test_the_page_needs_nothing_from_elsewhere(browser, slow_page) -> None:
    page = browser.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(slow_page.url)
    page.wait_for_selector("#generate")
    page.wait_for_timeout(1000)
    page.close()
    assert asked
    assert not [url for url in asked if not url.startswith((slow_page.url, "data:", "blob:"))]
