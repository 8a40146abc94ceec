"""PyTorch's process: in line, stopped, gone, idle."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from importlib.util import find_spec

import pytest

from app import torch_process
from app.api.errors import ApiError
from app.torch_process import TorchProcess
from runtime.bundle import Bundle
from runtime.errors import MissingDependencyError, OptionError
from runtime.text.tokenizer import Tokenizer

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
LONG = {"temperature": 0, "max_new_tokens": 200, "stop_token_ids": []}
SHORT = {"temperature": 0, "max_new_tokens": 4, "stop_token_ids": []}


@pytest.fixture
def bundle(stories260k_bundle, shared_data) -> Bundle:
    opened = Bundle.open(stories260k_bundle)
    return replace(opened, manifest={**opened.manifest, "source": str(shared_data / "stories260k")})


@pytest.fixture
def prompt(bundle) -> list[int]:
    return Tokenizer(bundle).encode("Once upon a time")


async def all_of(process, prompt, sampling) -> list[dict]:
    async with aclosing(process.generate(prompt, sampling)) as messages:
        return [message async for message in messages]


def run(work) -> None:
    asyncio.run(asyncio.wait_for(work, 120))


def test_the_second_waits_for_the_first_and_is_told_its_place(bundle, prompt):
    async def work():
        process = TorchProcess(bundle, threads=1)
        first = asyncio.create_task(all_of(process, prompt, SHORT))
        await asyncio.sleep(0)
        second, third = await asyncio.gather(all_of(process, prompt, SHORT), all_of(process, prompt, SHORT))
        assert {"loading": "PyTorch"} in await first
        assert second[0] == {"queue": 1}
        assert third[:2] == [{"queue": 2}, {"queue": 1}]
        assert second[-1]["end"]["new_tokens"] == third[-1]["end"]["new_tokens"] == 4
        await process.close()

    run(work())


def test_a_text_that_is_given_up_ends_and_the_next_one_runs(bundle, prompt):
    async def work():
        process = TorchProcess(bundle, threads=1)
        async with aclosing(process.generate(prompt, LONG)) as messages:
            async for message in messages:
                if "token" in message:
                    break
        assert process._process is None
        assert (await all_of(process, prompt, SHORT))[-1]["end"]["new_tokens"] == 4
        await process.close()

    run(work())


def test_one_that_leaves_the_line_lets_the_others_move_up(bundle, prompt):
    async def work():
        process = TorchProcess(bundle, threads=1)
        first = asyncio.create_task(all_of(process, prompt, SHORT))
        await asyncio.sleep(0)
        second = asyncio.create_task(all_of(process, prompt, SHORT))
        await asyncio.sleep(0)
        third = asyncio.create_task(all_of(process, prompt, SHORT))
        await asyncio.sleep(0.01)
        second.cancel()
        assert (await third)[:2] == [{"queue": 2}, {"queue": 1}]
        assert "end" in (await first)[-1]
        await process.close()

    run(work())


def test_a_process_that_dies_is_said_and_started_anew(bundle, prompt):
    async def work():
        process = TorchProcess(bundle, threads=1)
        await all_of(process, prompt, SHORT)
        process._process.kill()
        await process._process.wait()
        assert {"loading": "PyTorch"} in await all_of(process, prompt, SHORT)
        with pytest.raises(ApiError, match="has ended"):  # noqa: PT012 - it dies under way
            async for message in process.generate(prompt, LONG):
                if "token" in message:
                    process._process.kill()
        await process.close()

    run(work())


def test_too_many_in_line_are_refused(bundle, prompt, monkeypatch):
    monkeypatch.setattr(torch_process, "MOST_WAITING", 1)

    async def work():
        process = TorchProcess(bundle, threads=1)
        first = asyncio.create_task(all_of(process, prompt, SHORT))
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="too many"):
            await all_of(process, prompt, SHORT)
        await first
        await process.close()

    run(work())


def test_it_ends_when_nobody_has_asked_for_a_while(bundle, prompt, monkeypatch):
    monkeypatch.setattr(torch_process, "IDLE_SECONDS", 0.1)

    async def work():
        process = TorchProcess(bundle, threads=1)
        await all_of(process, prompt, SHORT)
        started = process._process
        await asyncio.sleep(0.5)
        assert process._process is None
        assert started.returncode is not None

    run(work())


def test_too_little_memory_is_said(bundle, prompt, monkeypatch):
    monkeypatch.setattr(torch_process, "available_bytes", lambda: 2**20)
    with pytest.raises(OptionError, match="memory"):
        run(all_of(TorchProcess(bundle), prompt, SHORT))


def test_a_checkpoint_that_cannot_be_read_is_said(bundle, prompt, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    broken = replace(bundle, manifest={**bundle.manifest, "source": str(tmp_path)})
    with pytest.raises(ApiError, match="cannot be started"):
        run(all_of(TorchProcess(broken), prompt, SHORT))


@pytest.mark.parametrize("source", [None, 3, "HuggingFaceTB/SmolLM2-135M", "/nowhere"])
def test_without_a_checkpoint_it_is_missing(bundle, prompt, source):
    process = TorchProcess(replace(bundle, manifest={"source": source}))
    assert "checkpoint" in process.missing
    with pytest.raises(MissingDependencyError):
        run(all_of(process, prompt, SHORT))
