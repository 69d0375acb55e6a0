"""Server-sent events, as long as the client is there and takes them.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .incoming import while_there

DONE = b"data: [DONE]\n\n"


def event(document: dict[str, Any]) -> bytes:
    """A JSON document as one event."""
    return b"data: " + msgspec.json.encode(document) + b"\n\n"


class EventStream(Response):
    """Events as they come.

    Args:
        events: each as bytes.
        patience: seconds in which a client must take an event; then it counts as gone.
        close: called in the end, whatever it is.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], patience: float, close: Callable[[], object]):
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._patience, self._close = events, patience, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_there(receive, self._send_all(send))
        except TimeoutError:
            pass
        finally:
            self._close()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for each in self._events:
            async with asyncio.timeout(self._patience):
                await send({"type": "http.response.body", "body": each, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
