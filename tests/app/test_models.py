"""A bundle's precisions: opened when asked for, once, and closed when memory is short."""

from __future__ import annotations

import asyncio
import shutil
from functools import partial

import pytest

from app.api.engine import Engine
from app.models import Models, OpenModel
from runtime.bundle import Bundle
from runtime.errors import BundleError, OptionError
from runtime.language_model import LanguageModel


class Unobserved:
    def first_token(self, seconds: float) -> None: ...

    def next_token(self, seconds: float) -> None: ...


def make(bundle: Bundle) -> Models:
    engine = partial(Engine, slots=2, queue=2, observer=Unobserved())
    return Models(bundle, default="int8", slots=2, make_engine=engine, threads=1)


def run(bundle: Bundle, work) -> None:
    async def main() -> None:
        models = make(bundle)
        try:
            await work(models)
        finally:
            await models.close()

    asyncio.run(main())


@pytest.fixture
def bundle(tiny_bundle) -> Bundle:
    return Bundle.open(tiny_bundle)


def test_a_precision_is_opened_once_for_all_who_ask(bundle: Bundle, monkeypatch) -> None:
    opened = []
    load = Models._load
    monkeypatch.setattr(Models, "_load", lambda models, name: opened.append(name) or load(models, name))

    async def work(models: Models) -> None:
        assert models.state("int8") == "closed"
        asking = [asyncio.create_task(models.get("int8")) for _ in range(5)]
        await asyncio.sleep(0)
        assert models.state("int8") == "loading"
        found = await asyncio.gather(*asking)
        assert opened == ["int8"]
        assert all(one is found[0] for one in found)
        assert models.state("int8") == "ready"
        assert isinstance((await models.get("fp32")).model, LanguageModel)
        assert found[0].model.tokenizer is models.ready()["fp32"].model.tokenizer

    run(bundle, work)


def test_who_leaves_while_it_opens_takes_it_from_nobody(bundle: Bundle) -> None:
    async def work(models: Models) -> None:
        leaving, staying = (asyncio.create_task(models.get("int8")) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        assert isinstance(await staying, OpenModel)

    run(bundle, work)


def test_there_is_no_other_precision(bundle: Bundle) -> None:
    async def work(models: Models) -> None:
        with pytest.raises(OptionError, match="no precision 'q2' here; choose"):
            await models.get("q2")

    run(bundle, work)


def test_what_failed_is_told_and_tried_again(bundle: Bundle, monkeypatch) -> None:
    load, failing = Models._load, [True]

    def fail_once(models: Models, name: str) -> LanguageModel:
        if failing.pop() if failing else False:
            raise BundleError("the file is broken")
        return load(models, name)

    monkeypatch.setattr(Models, "_load", fail_once)

    async def work(models: Models) -> None:
        with pytest.raises(BundleError):
            await models.get("int8")
        assert models.state("int8") == "failed"
        assert str(models.failure("int8")) == "the file is broken"
        await models.get("int8")
        assert models.state("int8") == "ready"
        assert models.failure("int8") is None

    run(bundle, work)


@pytest.fixture
def four(tiny_bundle, tmp_path) -> Bundle:
    """int8, and the weights of fp32 under three names."""
    shutil.copytree(tiny_bundle, tmp_path / "four")
    for name in ("model_quantized", "model_q4"):
        shutil.copy(tmp_path / "four/onnx/model.onnx", tmp_path / f"four/onnx/{name}.onnx")
    return Bundle.open(tmp_path / "four")


def test_the_precisions_idle_longest_are_closed_when_memory_is_short(four: Bundle, monkeypatch) -> None:
    memory = [10**12]
    monkeypatch.setattr("app.models.available_bytes", lambda: memory[0])

    async def work(models: Models) -> None:
        for name in ("int8", "fp32", "q8"):
            await models.get(name)
        busy = models.ready()["q8"].engine.open(1)
        memory[0] = 0
        await models.get("q4")
        # The default stays, and so does one that computes.
        assert set(models.ready()) == {"int8", "q8", "q4"}
        busy.close()
        await models.get("q8")
        memory[0] = 4 * 2**30
        monkeypatch.setattr(Engine, "stop", closing(Engine.stop, memory))
        monkeypatch.setattr(Bundle, "file_bytes", lambda *_: 4 * 2**30)
        await models.get("fp32")
        # q4 was idle for longer, and what it gave back was enough.
        assert set(models.ready()) == {"int8", "q8", "fp32"}

    run(four, work)


def closing(stop, memory: list[int]):
    def stopped(engine: Engine) -> None:
        memory[0] *= 2
        stop(engine)

    return stopped


def test_nothing_is_closed_while_there_is_memory(bundle: Bundle, monkeypatch) -> None:
    monkeypatch.setattr("app.models.available_bytes", lambda: 10**12)

    async def work(models: Models) -> None:
        for name in bundle.precisions:
            await models.get(name)
        assert set(models.ready()) == set(bundle.precisions)

    run(bundle, work)
