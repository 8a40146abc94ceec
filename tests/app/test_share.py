"""A public address through Gradio's relay, with a stand-in for its client."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from app.api.guard import Limits
from app.share import Share
from tests.app import sites
from tests.app.sites import endless

HOST = "a1b2c3.relay.example"


@pytest.fixture
def relay(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gradio's own client of its relay is a program that is downloaded; this one says what that says."""
    networking = pytest.importorskip("gradio.networking")
    tunneling = pytest.importorskip("gradio.tunneling")
    program = tmp_path / "relay"
    program.write_text(
        f"#!/bin/sh\necho start proxy success: https://{HOST}\necho $$ > {tmp_path}/pid\nexec sleep 60\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(tunneling, "BINARY_PATH", str(program))
    monkeypatch.setattr(tunneling.Tunnel, "download_binary", lambda _: None)
    monkeypatch.setattr(networking, "GRADIO_SHARE_SERVER_ADDRESS", "127.0.0.1:1")
    return tmp_path / "pid"


def test_the_relays_name_is_let_in_once_it_is_known_and_the_relay_ends_with_the_server(tiny_bundle, relay) -> None:
    hosts, told = {"127.0.0.1"}, []
    share = Share(7860, hosts, told.append)
    with sites.served(endless(tiny_bundle), guard=Limits(hosts=hosts), share=share) as site, site.client() as client:
        site.wait(lambda: told, 60)
        assert told == [f"https://{HOST}"]
        assert client.get("/", headers={"host": HOST}).status_code == 200
        wish = {"text": "x", "sampling": {"max_new_tokens": 1}}
        headers = {"host": HOST, "origin": f"https://{HOST}"}
        assert client.post(sites.CONTINUE, json=wish, headers=headers).status_code == 200
        assert client.get("/", headers={"host": "evil.example"}).status_code == 421
        site.wait(relay.is_file)
        pid = int(relay.read_text())
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_without_the_internet_there_is_a_line_and_the_page(tiny_bundle, monkeypatch, caplog) -> None:
    networking = pytest.importorskip("gradio.networking")

    def fail(*_) -> None:
        raise RuntimeError("Could not get share link from Gradio API Server.")

    monkeypatch.setattr(networking, "setup_tunnel", fail)
    share = Share(7860, None, pytest.fail)
    with sites.served(endless(tiny_bundle), share=share) as site, site.client() as client:
        site.wait(lambda: caplog.records, 60)
        assert client.get("/").status_code == 200
    (record,) = caplog.records
    assert (record.name, record.levelno, record.exc_info) == ("app.share", logging.ERROR, None)
    assert record.getMessage().startswith("no public address: Could not get share link")
