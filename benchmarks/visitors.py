"""`python -m benchmarks.visitors`: visitors of a page who write, chat, stop and vanish, for some minutes.

    python -m app run bundles/demo --port 7860 --slots 8 &
    python -m benchmarks.visitors http://127.0.0.1:7860 --seconds 300 --pid $!

Each visitor comes from an address of its own, as a proxy on the server's machine tells it. Texts are greedy: each that
ran to its end must be the one that came when nobody else was there. With --pid, the server's memory is followed, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from runtime.cli.command_line import run_to_exit_code
from runtime.errors import OptionError

POLL_SECONDS = 1.5  # as the page asks for its state
MEMORY_SECONDS = 1.0
WRITE, CHAT = "/page/continue", "/page/chat"
BEGINNINGS = (
    "Once upon a time, there was a little girl named Lily.",
    "The old lighthouse keeper had one rule:",
    "Dear diary, today",
    "The recipe begins with two eggs,",
    "In the middle of the night the phone",
    "Nobody in the village had ever seen",
)
QUESTIONS = ("Who are you?", "Tell me about the sea.", "Name three colours.", "What is a bicycle?")

Event = dict[str, Any]
Wish = tuple[str, dict[str, Any]]


@dataclass
class Tally:
    """What came of it.

    Attributes:
        done: texts by how they ended: whole, stopped, vanished.
        served: whole texts of each visitor.
        errors: what was answered instead of a text.
        crossed: texts that were another than the one that came alone.
        first_seconds: from a wish to its first token, of whole texts.
        memory: the server's, in MB, a second apart.
    """

    done: Counter[str] = field(default_factory=Counter)
    served: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    crossed: list[tuple[str, str]] = field(default_factory=list)
    first_seconds: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """The numbers, with the memory's mean of the first and the last quarter."""
        quarter = max(1, len(self.memory) // 4)
        served = self.served.values()
        return {
            "texts": dict(self.done),
            "errors": dict(self.errors),
            "crossed": len(self.crossed),
            "whole_texts_of_a_visitor": [min(served, default=0), max(served, default=0)],
            "first_token_seconds": {
                "median": statistics.median(self.first_seconds) if self.first_seconds else None,
                "largest": max(self.first_seconds, default=None),
            },
            "memory_mb": {
                "first_quarter": round(statistics.fmean(self.memory[:quarter])),
                "last_quarter": round(statistics.fmean(self.memory[-quarter:])),
                "largest": max(self.memory),
            }
            if self.memory
            else None,
        }


class Visitor:
    """A browser's tab.

    Args:
        url: of the site.
        number: of the visitor, which makes its address and its habits.
        alone: the text of each wish when nobody else was there.
        tally: told what came.
    """

    def __init__(self, url: str, number: int, alone: dict[str, str], tally: Tally) -> None:
        self._number, self._alone, self._tally = number, alone, tally
        self._random = random.Random(number)  # noqa: S311 - no secret
        headers = {"x-forwarded-for": f"203.0.113.{number}"}
        self._client = httpx.AsyncClient(base_url=url, headers=headers, timeout=120)

    async def stay(self, seconds: float, wishes: list[Wish]) -> None:
        """Look at the page, then wish for texts until the time is over."""
        async with self._client:
            document = (await self._client.get("/")).raise_for_status().text
            for path in re.findall(r'(?:src|href)="(/[^"]+)"', document):
                (await self._client.get(path)).raise_for_status()
            polling = asyncio.create_task(self._poll())
            ends = time.monotonic() + seconds
            try:
                while time.monotonic() < ends:
                    await self._visit(*self._random.choice(wishes))
                    await asyncio.sleep(self._random.uniform(0, 1))
            finally:
                polling.cancel()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                state = (await self._client.get("/page/state")).json()["state"]
            except (httpx.HTTPError, ValueError, KeyError) as error:
                state = type(error).__name__
            if state != "ready":
                self._tally.errors[f"state: {state}"] += 1

    async def _visit(self, path: str, wish: dict[str, Any]) -> None:
        # Of ten texts seven are heard to the end, two are stopped on the way, and one visitor leaves before it begins.
        habit = self._random.choices(("whole", "stopped", "vanished"), (7, 2, 1))[0]
        least = self._random.randrange(1, 30)
        text, started = "", time.monotonic()
        try:
            async with aclosing(stream(self._client, path, wish)) as events:
                async for event in events:
                    if "error" in event:
                        self._tally.errors[event["error"]] += 1
                        return
                    if not text and event.get("t"):
                        first = time.monotonic() - started
                    text += event.get("t", "")
                    if habit == "vanished" or (habit == "stopped" and len(text) > least):
                        break
        except httpx.HTTPError as error:
            self._tally.errors[type(error).__name__] += 1
            return
        self._tally.done[habit] += 1
        expected = self._alone[key(path, wish)]
        if not (text == expected if habit == "whole" else expected.startswith(text)):
            self._tally.crossed.append((expected, text))
        if habit == "whole":
            self._tally.served[self._number] += 1
            self._tally.first_seconds.append(first)


def key(path: str, wish: dict[str, Any]) -> str:
    """A wish as a name."""
    return path + json.dumps(wish)


async def stream(client: httpx.AsyncClient, path: str, wish: dict[str, Any]) -> AsyncIterator[Event]:
    """The events of a wish; leaving them ends the connection."""
    async with client.stream("POST", path, json=wish) as answer:
        if answer.status_code != httpx.codes.OK:
            await answer.aread()
            yield {"error": answer.json()["error"]["message"]}
            return
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))


async def visit(url: str, *, clients: int, seconds: float, tokens: int, pid: int | None = None) -> Tally:
    """Have each text once alone, and then all visitors at once."""
    sampling = {"temperature": 0, "max_new_tokens": tokens}
    wishes: list[Wish] = [(WRITE, {"text": text, "sampling": sampling}) for text in BEGINNINGS]
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        alone = {key(*wish): await _whole(client, wish) for wish in wishes}
        for question in QUESTIONS:
            turns = [{"role": "user", "content": question}]
            for _ in range(2):
                wish = (CHAT, {"messages": list(turns), "sampling": sampling})
                try:
                    answer = alone[key(*wish)] = await _whole(client, wish)
                except OptionError:  # a model without a chat template
                    break
                wishes.append(wish)
                turns += [{"role": "assistant", "content": answer}, {"role": "user", "content": "And then?"}]
    tally = Tally()
    following = asyncio.create_task(_follow(pid, tally))
    await asyncio.gather(*(Visitor(url, n, alone, tally).stay(seconds, wishes) for n in range(1, clients + 1)))
    following.cancel()
    return tally


async def _whole(client: httpx.AsyncClient, wish: Wish) -> str:
    text = ""
    async for event in stream(client, *wish):
        if "error" in event:
            raise OptionError(event["error"])
        text += event.get("t", "")
    return text


async def _follow(pid: int | None, tally: Tally) -> None:
    while pid is not None:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        tally.memory.append(int(status.partition("VmRSS:")[2].split()[0]) // 1024)
        await asyncio.sleep(MEMORY_SECONDS)


def main(arguments: list[str] | None = None) -> int:
    """Run it, and print the figures as JSON. 1 where something went wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.visitors", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("url", help="of a page that is served")
    parser.add_argument("--clients", type=int, default=16, metavar="N", help="visitors (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=300, metavar="S", help="(default %(default)s)")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="of a text (default %(default)s)")
    parser.add_argument("--pid", type=int, help="of the server's process, on this machine: follow its memory")
    args = parser.parse_args(arguments)

    def command() -> None:
        try:
            tally = asyncio.run(
                visit(args.url, clients=args.clients, seconds=args.seconds, tokens=args.tokens, pid=args.pid)
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise OptionError(f"{args.url} is not a page that is served ({error}); begin with `app run`") from None
        print(json.dumps(tally.figures(), indent=2))
        if tally.errors or tally.crossed:
            raise OptionError(f"{sum(tally.errors.values())} errors, {len(tally.crossed)} texts were not their own")

    return run_to_exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
