"""From the thread of the engine to the event loop: the pieces of one request."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence

from .answers import Ask, Job, Piece
from .engine import Engine, Refused, Stopped
from .errors import BROKEN, FULL, STOPPING, ApiError
from .event_stream import DONE, event
from .metrics import Metrics
from .openai_api import Form

LOG = logging.getLogger(__name__)


class Answering:
    """One request that is being answered.

    A piece is at most a token, so the queue never holds more than the context has.

    Args:
        engine: writes.
        asks: what is asked for.
        metrics: measures.

    Raises:
        ApiError: the engine refuses.
    """

    def __init__(self, engine: Engine, asks: Sequence[Ask], metrics: Metrics):
        self._engine, self._metrics = engine, metrics
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue()
        self._left = sum(ask.count for ask in asks)
        self._began = self._latest = time.monotonic()
        try:
            self.job: Job = engine.submit(asks, self._pieces.put_nowait)
        except Refused as error:
            raise refusal(error) from None

    def close(self) -> None:
        """Nobody waits for it any more."""
        self._engine.cancel(self.job)

    async def whole(self, form: Form) -> dict:
        """The answer at once. ApiError if it fails."""
        try:
            return form.whole([piece async for piece in self._all()], self.job)
        finally:
            self.close()

    async def events(self, form: Form) -> AsyncIterator[bytes]:
        """The answer as events; an error is the last one."""
        try:
            async for piece in self._all():
                for chunk in form.chunks(piece):
                    yield event(chunk)
            for chunk in form.last(self.job):
                yield event(chunk)
            yield DONE
        except ApiError as error:
            yield event(error.document)

    async def _all(self) -> AsyncIterator[Piece]:
        """The pieces, until all answers have ended."""
        while self._left:
            piece = await self._pieces.get()
            if piece.error is not None:
                raise _failure(piece.error)
            now = time.monotonic()
            self._metrics.observe_piece(now - self._latest, first=self._latest == self._began)
            self._latest = now
            self._left -= piece.finish is not None
            yield piece


def refusal(error: Refused) -> ApiError:
    """Why the engine takes no more."""
    if error.retry_after is None:
        return ApiError(STOPPING, str(error), code="stopping")
    return ApiError(FULL, str(error), code="queue_full", headers={"Retry-After": str(error.retry_after)})


def _failure(error: Exception) -> ApiError:
    """Why an answer failed."""
    if isinstance(error, Stopped):
        return ApiError(STOPPING, str(error), code="stopping")
    LOG.error("an answer failed", exc_info=error)
    return ApiError(BROKEN, "the model failed on this request; the server's log says more", code="failed")
