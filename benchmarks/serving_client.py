"""A client of completions that costs little: one request is one connection, and events are counted, not parsed."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_LIMIT = 120.0  # seconds of a request


@dataclass(frozen=True)
class Streamed:
    """How a stream came.

    Attributes:
        began: when the request was sent, by the clock of ``time.perf_counter``.
        first: when the first token had come.
        end: when the last one had.
        tokens: that were written.
    """

    began: float
    first: float
    end: float
    tokens: int

    @property
    def first_s(self) -> float:
        """Seconds to the first token."""
        return self.first - self.began


async def stream(address: tuple[str, int], fields: Mapping[str, Any]) -> Streamed:
    """Ask for a completion, and take it as it comes.

    Raises:
        RuntimeError: the answer is an error, or ends too early.
        TimeoutError: it does not end.
    """
    asked = {**fields, "stream": True, "stream_options": {"include_usage": True}}
    body = json.dumps(asked).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    began, first, events = time.perf_counter(), 0.0, [b""]
    async with asyncio.timeout(_LIMIT):
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            while line := await reader.readline():
                if line.startswith(b"data: "):
                    first = first or time.perf_counter()
                    events = [*events[-1:], line]
                elif line.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")):
                    raise RuntimeError(f"the server refused: {(await reader.read()).decode(errors='replace')[-300:]}")
        finally:
            writer.close()
    if not events[-1].startswith(b"data: [DONE]"):
        raise RuntimeError(f"the stream broke off after {events[-1]!r:.300}")
    usage = json.loads(events[0].removeprefix(b"data: "))["usage"]
    return Streamed(began, first, time.perf_counter(), usage["completion_tokens"])
