"""The report in a real browser: its plots are seen, it fits a phone, and it asks nobody for anything."""

from __future__ import annotations

import pytest

from export.comparison.compare import compare
from export.comparison.report_html import html_report
from export.comparison.torch_reference import TorchReference
from model import load_checkpoint
from runtime import Bundle
from tests.chromium import chromium


@pytest.fixture(scope="module")
def page(shared_data, stories260k_bundle, tmp_path_factory):
    bundle = Bundle.open(stories260k_bundle)
    reference = TorchReference(load_checkpoint(shared_data / "stories260k"))
    path = tmp_path_factory.mktemp("report") / "compare.html"
    path.write_text(html_report(compare(bundle, reference, details=True, progress=False), bundle, []), encoding="utf-8")
    with chromium() as browser:
        page = browser.new_page()
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(path.as_uri())
        yield page


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 768, 1280], ids=["phone", "tablet", "laptop"])
def test_the_plots_are_seen_and_the_page_fits(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [plot.bounding_box() for plot in page.query_selector_all("svg")]
    assert len(boxes) == 10
    assert all(box["width"] > 200 and box["height"] > 80 for box in boxes)
    # Every mark lies within its plot: nothing is cut off, and no coordinate is NaN.
    outside = """[...document.querySelectorAll('svg :is(text, rect, circle, polyline)')].filter(mark => {
        const plot = mark.ownerSVGElement.getBoundingClientRect(), box = mark.getBoundingClientRect();
        return box.left < plot.left - 1 || box.right > plot.right + 1
            || box.top < plot.top - 1 || box.bottom > plot.bottom + 1;
    }).map(mark => mark.outerHTML)"""
    assert page.evaluate(outside) == []
    assert len(page.asked) == 1


@pytest.mark.browser
def test_light_it_stays(page):
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(246, 247, 249)"
