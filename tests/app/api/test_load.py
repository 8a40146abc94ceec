"""Many clients of one model: nobody's text depends on the others, and whoever leaves frees what he held."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from runtime import LanguageModel, SamplingOptions
from runtime.engine.session import DecoderSession
from tests.app.api.serving import Served, endless, served

COMPLETION = "/v1/completions"
CLIENTS = 16


def wait_until(holds, seconds: float = 10) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.005)


@pytest.fixture
def slow_steps(monkeypatch):
    """Counts steps, each of which takes 20 ms."""
    calls, forward = [], DecoderSession.forward

    def slowed(*args, **kwargs):
        calls.append(None)
        time.sleep(0.02)
        return forward(*args, **kwargs)

    monkeypatch.setattr(DecoderSession, "forward", slowed)
    return calls


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_vanishes_frees_its_slot_within_a_step(tiny_bundle, slow_steps, stream) -> None:
    with served(endless(tiny_bundle, slots=1), slots=1) as api:
        body = {"prompt": "The mouse", "max_tokens": 150, "stream": stream}
        with api.client() as client:
            if stream:
                with client.stream("POST", COMPLETION, json=body) as answer:
                    for _ in zip(range(10), answer.iter_lines(), strict=False):
                        pass
            else:
                with pytest.raises(httpx.ReadTimeout):
                    client.post(COMPLETION, json=body, timeout=0.4)  # closes the connection
        wait_until(lambda: api.service.engine.accepted == 0, 1)
        time.sleep(0.05)
        steps = len(slow_steps)
        assert 3 < steps < 60
        time.sleep(0.2)
        assert len(slow_steps) == steps
        assert api.is_free()
        assert api.figure("smoltext_given_up_requests_total") == 1


def test_who_waits_and_leaves_is_forgotten_and_too_many_are_told_when_to_return(tiny_bundle, slow_steps) -> None:
    with served(endless(tiny_bundle, slots=1), slots=1, queue=2) as api:
        body = {"prompt": "The mouse", "max_tokens": 60}
        statuses: list[int] = []

        def ask(timeout: float) -> None:
            with api.client() as client:
                try:
                    statuses.append(client.post(COMPLETION, json=body, timeout=timeout).status_code)
                except httpx.ReadTimeout:
                    statuses.append(0)

        threads = [threading.Thread(target=ask, args=(seconds,)) for seconds in (30, 0.5, 30)]
        for thread in threads:
            thread.start()
        wait_until(lambda: api.service.engine.accepted == 3)
        with api.client() as client:
            refused = client.post(COMPLETION, json=body)
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "rate_limit_exceeded"
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            wait_until(lambda: api.service.engine.accepted == 2)
            assert client.post(COMPLETION, json={**body, "max_tokens": 1}).status_code == 200
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [0, 200, 200]
        assert api.is_free()


def test_a_page_generates_in_the_same_passes(tiny_bundle) -> None:
    model = endless(tiny_bundle)
    options = SamplingOptions(temperature=0, max_new_tokens=100)
    alone = model.generate("The cat", options).text
    with served(model) as api:
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(model.generate("The cat", options).text))
        thread.start()
        with api.client() as client:
            body = {"prompt": "The mouse", "max_tokens": 100, "temperature": 0}
            first = [client.post(COMPLETION, json=body).json()["choices"][0]["text"] for _ in range(3)]
        thread.join()
    assert found == [alone]
    assert len(set(first)) == 1


@pytest.mark.parametrize("precision", ["int8-kv8", "int8", "fp32-kv8"])
def test_greedy_tokens_alone_are_those_under_load(request, precision) -> None:
    name = "stories260k_bundle" if precision == "int8" else "int8_cache_bundle"
    model = LanguageModel.load(
        request.getfixturevalue(name), precision=precision, threads=1, cached_prompts=4, max_running=8
    )
    random_ids = np.random.default_rng(0).integers(3, 500, (24, 90)).tolist()
    bodies = [
        {"prompt": ids[: 3 + 3 * number], "max_tokens": 20 + 5 * (number % 5), "temperature": 0, "logprobs": 1}
        for number, ids in enumerate(random_ids)
    ]
    with served(model, slots=8) as api:
        alone = asyncio.run(ask_all(api, bodies, clients=1))
        together = asyncio.run(ask_all(api, bodies, clients=12))
        assert together == alone
        api.wait_until_free()


async def ask_all(api: Served, bodies: list[dict], clients: int) -> list[tuple]:
    """Text and log-probabilities of each body, this many at a time."""
    turn = asyncio.Semaphore(clients)
    async with httpx.AsyncClient(base_url=api.url, timeout=60) as client:

        async def ask(body: dict) -> tuple:
            async with turn:
                choice = (await client.post(COMPLETION, json=body)).json()["choices"][0]
                return choice["text"], choice["logprobs"]["token_logprobs"]

        return await asyncio.gather(*map(ask, bodies))


def test_mixed_requests_of_which_a_tenth_vanishes(tiny_bundle) -> None:
    check_mixed_requests(tiny_bundle, 240, None)


@pytest.mark.slow
def test_4000_mixed_requests_leave_memory_flat(tiny_bundle) -> None:
    check_mixed_requests(tiny_bundle, 4000, 500)


def check_mixed_requests(bundle: Path, count: int, settled: int | None) -> None:
    """Every answer is that of its request alone, and nothing is held at the end.

    Args:
        bundle: to serve.
        count: requests, from 16 clients.
        settled: from this many on memory must not grow by 5 %; None for short runs.
    """
    model = endless(bundle, slots=8)
    kinds = [mixed_body(random.Random(number)) for number in range(60)]
    resident: list[tuple[int, int]] = []
    with served(model, slots=8) as api:
        with api.client() as client:
            alone = [client.post(path, json=body).json()["choices"] for path, body in kinds]
        asyncio.run(mixed(api, kinds, [texts_of(choices) for choices in alone], count, resident))
        api.wait_until_free()
        assert api.figure("smoltext_given_up_requests_total") > 0.02 * count
    if settled is not None:
        before = next(size for done, size in resident if done >= settled)
        assert max(size for done, size in resident if done >= settled) <= 1.05 * before


def mixed_body(draw: random.Random) -> tuple[str, dict]:
    body = {
        "max_tokens": draw.randint(1, 60),
        "temperature": draw.choice([0, 0.8, 1.2]),
        "seed": draw.randint(0, 99),
        "n": draw.choice([1, 1, 1, 2]),
    }
    words = " ".join(draw.choices(["mouse", "cat", "the", "stairs", "story"], k=draw.randint(1, 20)))
    if draw.random() < 0.2:
        body["stop"] = ["e"]
    if draw.random() < 0.5:
        return "/v1/chat/completions", body | {"messages": [{"role": "user", "content": words}]}
    if draw.random() < 0.3:
        body["logprobs"] = 2
    return COMPLETION, body | {"prompt": words}


def texts_of(choices: list[dict]) -> list[str]:
    return [choice["text"] if "text" in choice else choice["message"]["content"] for choice in choices]


async def mixed(api: Served, kinds: list, expected: list, count: int, resident: list) -> None:
    numbers, draw, done = iter(range(count)), random.Random(1), 0
    faults: list[str] = []

    async def one(client: httpx.AsyncClient) -> None:
        kind = draw.randrange(len(kinds))
        path, body = kinds[kind]
        vanishes, stream = draw.random() < 0.1, draw.random() < 0.5
        if vanishes:
            body = body | {"max_tokens": 100, "stop": None}
        try:
            if stream:
                texts = await read_stream(client, path, body, draw.randint(1, 8) if vanishes else None)
            else:
                answer = await client.post(path, json=body, timeout=0.01 if vanishes else 60)
                texts = texts_of(answer.json()["choices"])
        except (httpx.ReadTimeout, httpx.ConnectTimeout, httpx.WriteTimeout):
            assert vanishes
            return
        if not vanishes and texts != expected[kind]:
            faults.append(f"{path} {body}: {texts} instead of {expected[kind]}")

    async def visitor() -> None:
        nonlocal done
        async with httpx.AsyncClient(base_url=api.url, timeout=60) as client:
            for _ in numbers:
                await one(client)
                done += 1
                if done % 100 == 0:
                    resident.append((done, resident_bytes()))

    await asyncio.gather(*(visitor() for _ in range(CLIENTS)))
    assert not faults, faults[:3]


async def read_stream(client: httpx.AsyncClient, path: str, body: dict, most: int | None) -> list[str]:
    """The texts of a stream; of the first few events alone, after which the client is gone."""
    texts = [""] * body["n"]
    async with client.stream("POST", path, json=body | {"stream": True}) as answer:
        events = 0
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            for choice in json.loads(line[6:])["choices"]:
                texts[choice["index"]] += choice["text"] if "text" in choice else choice["delta"].get("content", "")
            events += 1
            if events == most:
                break
    return texts


def resident_bytes() -> int:
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])
