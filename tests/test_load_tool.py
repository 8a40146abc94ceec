"""The load tool: what it reads off a server is what the server did."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from benchmarks.load import Load, Run, main, make_tasks, run, table
from benchmarks.load_client import Outcome
from tests.app.api.serving import endless, served


@pytest.mark.parametrize("load", [["--streams", "1,3"], ["--rate", "60"]])
def test_a_server_is_measured(tiny_bundle, load, capsys) -> None:
    options = ["--requests", "9", "--prompt-words", "4,9", "--new-tokens", "5,20", "--rounds", "2"]
    with served(endless(tiny_bundle)) as api:
        assert main([f"ours={api.url}", f"again={api.url}", *load, *options, "--json"]) == 0
        runs = json.loads(capsys.readouterr().out)
        assert api.figure("smoltext_generated_tokens_total") == sum(run["new_tokens"] for run in runs) + 2 * 8
        assert main([f"ours={api.url}", *load, *options, "--rounds", "1"]) == 0
    assert len(runs) == 4 * len(load[1].split(","))
    for record in runs:
        assert (record["requests"], record["errors"]) == (9, {})
        assert 9 * 5 <= record["new_tokens"] <= 9 * 20
        assert record["tokens_per_second"] == pytest.approx(record["new_tokens"] / record["seconds"])
        for key in ("time_to_first_token_ms", "inter_token_ms", "request_ms"):
            assert 0 < record[key]["p50"] <= record[key]["p95"] <= record[key]["p99"]
    assert re.search(r"ours +0 ", capsys.readouterr().out)


def test_arrivals_do_not_wait_for_the_server(tiny_bundle) -> None:
    """An open loop: what waits for a slot is counted as waiting for its first token."""
    with served(endless(tiny_bundle, slots=1), slots=1) as api:
        tasks = make_tasks(12, [4], [100], 0)
        crowded = asyncio.run(run("x", api.url, Load(rate=1000), tasks, key=None, seed=0))
        alone = asyncio.run(run("x", api.url, Load(streams=1), tasks, key=None, seed=0))
    assert [outcome.error for outcome in crowded.outcomes] == [None] * 12
    assert crowded.percentiles("first")[0] > 3 * alone.percentiles("first")[0]


def test_what_a_server_refuses_is_counted(tiny_bundle, capsys) -> None:
    with served(endless(tiny_bundle, slots=1), slots=1, queue=0) as api:
        found = asyncio.run(run("x", api.url, Load(streams=4), make_tasks(4, [4], [100], 0), key=None, seed=0))
        assert found.to_dict()["errors"]["status 429"] >= 1
    assert main(["x=http://127.0.0.1:9", "--streams", "1"]) == 1
    assert main(["x=y", "--streams", "1"]) == 1
    assert capsys.readouterr().err.count("error: ") == 2


def test_the_table_has_ratios_of_the_rounds() -> None:
    runs = [
        Run(server, Load(rate=2), [Outcome(0.1, 1.0, [0.01, 0.03], 5, tokens)], 1.0)
        for tokens in (10, 20)
        for server, tokens in (("ours", tokens), ("theirs", tokens // 2))
    ]
    ours, theirs = table(runs).splitlines()[1:]
    assert "1.00  (1.00 to 1.00)" in ours
    assert "0.50  (0.50 to 0.50)" in theirs
    assert ours.split()[-6:-3] == ["100", "100", "100"]
    assert ours.split()[-3] == "20"
