"""What goes over the wire: nothing to elsewhere, and no character of a text twice."""

from __future__ import annotations

import json

START = "Once upon a time, there was"
# An event's frame: `data: {"t":"","n":1}` and two line ends, with room for another key.
EVENT_BYTES = 40


def test_a_stream_sends_every_character_once(gated, visit) -> None:
    visitor = visit(gated, "Write")
    gated.go()
    visitor.set("Length", "200")
    visitor.field.fill(START)
    with visitor.page.expect_response("**/page/continue") as response:
        visitor.press("Continue")
    visitor.wait_for_status("Finished")
    body = response.value.body().decode()
    lines = [line for line in body.split("\n\n") if line]
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line != "data: [DONE]"]
    written = "".join(event.get("t", "") for event in events)
    assert written == visitor.text[len(START) :]
    about = len(json.dumps(written, ensure_ascii=False).encode())
    beside = [event for event in events if "t" not in event]
    assert len(body.encode()) <= about + EVENT_BYTES * len(events) + len(json.dumps(beside))


def test_the_pages_files_come_from_its_server_under_a_strict_policy(served, visit) -> None:
    visitor = visit(served)
    visitor.choose_tab("Write")
    visitor.wait_for("() => performance.getEntriesByType('resource').length > 3")
    assert len(visitor.requested) > 5
    response = visitor.page.request.get(served.url)
    policy = response.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    # Every visitor's faults, requests to elsewhere among them, are looked at where the visit ends.


def test_a_page_that_is_watched_only_asks_for_little(served, visit) -> None:
    visitor = visit(served, "Write")
    before = len(visitor.requested)
    visitor.page.wait_for_timeout(2500)
    asked = visitor.requested[before:]
    assert set(asked) <= {f"{served.url}/page/state"}
    assert len(asked) <= 6
