"""Chromium, the pages that it visits, and a visitor who leaves without a fault."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.app.browser.served_page import GatedPage, ServedPage, serve
from tests.app.browser.visitor import Visitor
from tests.chromium import chromium
from tests.conftest import SHARED_DATA
from tests.runtime.files import edit_json

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """One for each file of tests."""
    with chromium() as found:
        yield found


@pytest.fixture(scope="session")
def page_bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained model with a chat template and figures of a comparison; the tiny one where it is not at hand."""
    folder = tmp_path_factory.mktemp("page") / "stories"
    if SHARED_DATA.is_dir():
        export_stories(folder)
    else:
        shutil.copytree(request.getfixturevalue("tiny_bundle"), folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    if "chat_template" not in settings:
        (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    edit_json(folder / "manifest.json", comparison=comparison(list(manifest["precisions"])))
    return folder


def export_stories(folder: Path) -> None:
    """The 260,000 parameters that tell stories, with nothing measured on the way: exact enough to be looked at."""
    pytest.importorskip("torch", reason="the bundle of real weights is exported with torch")
    from export.bundle import export_bundle
    from export.precisions import parse_precisions
    from model import Checkpoint

    recipes = parse_precisions("fp32,int8,q8")
    checkpoint = Checkpoint(SHARED_DATA / "stories260k")
    export_bundle(checkpoint, folder, recipes, source="test", calibration_tokens=0, progress=False)


def comparison(precisions: list[str]) -> dict:
    """Figures as `export compare` writes them, made up."""
    rows = {
        name: {
            "kl": 0.0031 * at,
            "top1_agreement": 1 - 0.01 * at,
            "perplexity": 4.5 + 0.05 * at,
            "file_bytes": 1_000_000 // (at + 1),
            "prefill_tokens_per_second": 9000.0 + at,
            "decode_tokens_per_second": 2000.0 + at,
        }
        for at, name in enumerate(precisions)
    }
    return {"precisions": rows, "reference": {"perplexity": 4.5}}


@pytest.fixture(scope="session")
def served(page_bundle: Path) -> Iterator[ServedPage]:
    """The page as its command serves it, shared by all tests that do it no harm."""
    with serve(page_bundle, "--model-name", "Storyteller") as found:
        found.wait_until_ready()
        yield found


@pytest.fixture(scope="session")
def gated_process(page_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatedPage]:
    folder = tmp_path_factory.mktemp("gate")
    with serve(page_bundle, "--slots", "1", "--model-name", "Storyteller", gate=folder) as found:
        found.wait_until_ready()
        yield found


@pytest.fixture
def gated(gated_process: GatedPage) -> Iterator[GatedPage]:
    """The page over a model that takes the steps it is allowed, one text at a time."""
    gated_process.hold()
    yield gated_process
    gated_process.go()
    gated_process.wait_until_idle()


@pytest.fixture
def visit(browser) -> Iterator[Callable[..., Visitor]]:
    """Come as a new visitor to a page; who is still there at the end must have met no fault."""
    contexts, visitors = [], []

    def come(to: ServedPage, tab: str | None = None, **options) -> Visitor:
        context = browser.new_context(**options)
        contexts.append(context)
        visitor = Visitor(context, to.url)
        visitors.append(visitor)
        return visitor.open(tab)

    yield come
    try:
        faults = [fault for visitor in visitors if not visitor.page.is_closed() for fault in visitor.faults()]
    finally:
        for context in contexts:
            context.close()
    assert not faults
