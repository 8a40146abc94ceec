"""One streamed request to an OpenAI server, timed. As little Python as can be: it runs beside what it measures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Task:
    """What to ask for: exactly `new_tokens`, past the end of the text."""

    prompt: str
    new_tokens: int


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        first_seconds: from when it was due to its first text.
        whole_seconds: to its end.
        gaps_seconds: between two pieces of text.
        prompt_tokens, new_tokens: as the server counts them.
        error: what went wrong; None for nothing.
    """

    first_seconds: float = 0.0
    whole_seconds: float = 0.0
    gaps_seconds: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    new_tokens: int = 0
    error: str | None = None


async def ask(url: str, task: Task, *, key: str | None, due_seconds: float) -> Outcome:
    """Send a request and read its stream.

    Args:
        url: http://HOST:PORT.
        task: what to ask for.
        key: of the API.
        due_seconds: of the event loop's clock: when the request arrived, which the times count from.
    """
    outcome, loop = Outcome(), asyncio.get_running_loop()
    try:
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port or 80)
        try:
            writer.write(_request(address.netloc, task, key))
            status = int((await reader.readline()).split()[1])
            while (await reader.readline()).strip():
                pass
            if status != 200:
                outcome.error = f"status {status}"
                return outcome
            last = 0.0
            async for event in _events(reader):
                now = loop.time()
                if b'"usage":{' in event or b'"usage": {' in event:
                    usage = json.loads(event)["usage"]
                    outcome.prompt_tokens, outcome.new_tokens = usage["prompt_tokens"], usage["completion_tokens"]
                elif last:
                    outcome.gaps_seconds.append(now - last)
                    last = now
                else:
                    outcome.first_seconds, last = now - due_seconds, now
            outcome.whole_seconds = loop.time() - due_seconds
            if not outcome.new_tokens:
                outcome.error = "cut off"
        finally:
            writer.close()
    except (OSError, ValueError, IndexError, asyncio.IncompleteReadError) as error:
        outcome.error = type(error).__name__
    return outcome


def _request(host: str, task: Task, key: str | None) -> bytes:
    body = json.dumps(
        {
            "prompt": task.prompt,
            "max_tokens": task.new_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )
    head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    if key is not None:
        head += f"authorization: Bearer {key}\r\n"
    return f"{head}content-length: {len(body.encode())}\r\n\r\n{body}".encode()


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The JSON of each event of a chunked body, up to [DONE]."""
    held = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        held += (await reader.readexactly(size + 2))[:-2]
        *lines, held = held.split(b"\n")
        for line in lines:
            if line.startswith(b"data: {"):
                yield line[6:]
            elif line.startswith(b"data: [DONE]"):
                return
