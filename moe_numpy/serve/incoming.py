"""Bodies of requests: of a bounded size, in a bounded time; and clients that go away."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from .errors import BAD, NOT_JSON, TIMEOUT, TOO_LARGE, ApiError

T = TypeVar("T")
_CLOSE = {"Connection": "close"}  # what comes of the body is not read


async def json_body(request: Request, limit: int, seconds: float) -> bytes:
    """The bytes of a JSON body. ApiError if it is something else, larger than ``limit``, or slower than ``seconds``."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        message = f"Content-Type must be application/json, got {kind!r:.100}"
        raise ApiError(NOT_JSON, message, code="unsupported_media_type", headers=_CLOSE)
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and len(length) < 20 and int(length) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        message = f"the body did not arrive within {seconds:g} s"
        raise ApiError(TIMEOUT, message, code="timeout", headers=_CLOSE) from None
    except ClientDisconnect:
        raise ApiError(BAD, "the client has gone before its request was complete", code="disconnected") from None
    return bytes(body)


def _too_large(limit: int) -> ApiError:
    return ApiError(TOO_LARGE, f"the body may have at most {limit:,} bytes", code="body_too_large", headers=_CLOSE)


async def while_there(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """What work returns; None if the client goes away first, which cancels the work."""
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
