"""The paths of the server."""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .answering import Answering
from .answers import Ask, Job, Piece
from .engine import Engine
from .errors import BROKEN, UNAUTHORISED, ApiError
from .event_stream import EventStream
from .incoming import json_body, while_there
from .metrics import Metrics
from .microscope import Microscope
from .openai_api import ChatForm, CompletionForm, Form, model_document
from .openapi import openapi_document
from .page import STATIC, live_page, saved_page
from .requests import ChatRequest, CompletionRequest, Generation, LookRequest, decoded
from .served import Served

LOG = logging.getLogger(__name__)
_FROM_HERE = {  # what the page may load
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' data:",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
_SECRET = ("/v1/", "/microscope/api/", "/metrics")
R = TypeVar("R", bound=Generation)


@dataclass(frozen=True)
class Limits:
    """What a client may cost.

    Attributes:
        body: bytes.
        body_seconds: until a body has arrived.
        patience: seconds in which a client must take an event.
    """

    body: int = 1 << 20
    body_seconds: float = 30.0
    patience: float = 30.0


class Server:
    """The handlers, and what they share."""

    def __init__(self, served: Served, engine: Engine, api_key: str | None, limits: Limits):
        self.served, self.engine, self.limits = served, engine, limits
        self.metrics = Metrics(engine)
        self._key, self._microscope = api_key, Microscope(served, engine)
        self._described = openapi_document(served, api_key is not None)

    def application(self) -> ASGIApp:
        """All paths, behind the key."""
        routes = [
            Route("/health", self._health),
            Route("/metrics", self._metrics),
            Route("/openapi.json", self._openapi),
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._model),
            Route("/v1/completions", self._completions, methods=["POST"]),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/microscope/api/model", self._look_at_model),
            Route("/microscope/api/look", self._look, methods=["POST"]),
            *_files(),
        ]
        handlers: Any = {ApiError: _told, HTTPException: _told_by_http, Exception: _broken}
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)
        app.router.redirect_slashes = False
        known = {route.path for route in routes}
        return _Gate(app, self._refusal, self.metrics, known)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def deliver(pieces: Sequence[tuple[Job, Piece]]) -> None:
            loop.call_soon_threadsafe(_put_all, pieces)

        self.engine.deliver = deliver
        self.engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self.engine.stop)

    def _refusal(self, path: str, authorization: str) -> ApiError | None:
        """Unless the path is open to all, or the key is there."""
        if self._key is None or not path.startswith(_SECRET):
            return None
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._key.encode()):
            return None
        return ApiError(
            UNAUTHORISED,
            "the key is missing or wrong: Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )

    async def _health(self, request: Request) -> Response:
        return _json({"status": "ok", "slots": self.engine.slots, "slots_busy": self.engine.busy})

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _openapi(self, request: Request) -> Response:
        return _json(self._described)

    async def _models(self, request: Request) -> Response:
        return _json({"object": "list", "data": [model_document(self.served)]})

    async def _model(self, request: Request) -> Response:
        self.served.require(request.path_params["name"])
        return _json(model_document(self.served))

    async def _completions(self, request: Request) -> Response:
        return await self._generate(request, CompletionRequest, self.served.completion, CompletionForm)

    async def _chat(self, request: Request) -> Response:
        return await self._generate(request, ChatRequest, self.served.chat, ChatForm)

    async def _generate(
        self, request: Request, kind: type[R], asks_of: Callable[[R], list[Ask]], form_of: type[Form]
    ) -> Response:
        asked = await self._asked(request, kind)
        asks = asks_of(asked) if asked.is_short else await asyncio.to_thread(asks_of, asked)
        form = form_of(self.served, asked.tells_usage, asks[0].logprobs is not None, asks[0].routing)
        answering = Answering(self.engine, asks, self.metrics)
        if asked.stream:
            return EventStream(answering.events(form), self.limits.patience, answering.close)
        return await _unless_gone(request, answering.whole(form))

    async def _look_at_model(self, request: Request) -> Response:
        return _json(self._microscope.model())

    async def _look(self, request: Request) -> Response:
        asked = await self._asked(request, LookRequest)
        return await _unless_gone(request, self._microscope.look(asked))

    async def _asked(self, request: Request, kind: type[Any]) -> Any:
        return decoded(await json_body(request, self.limits.body, self.limits.body_seconds), kind)


class _Gate:
    """Before all paths: the key. After all answers: the metrics."""

    def __init__(self, app: ASGIApp, refusal: Callable[[str, str], ApiError | None], metrics: Metrics, known: set[str]):
        self._app, self._refusal, self._metrics, self._known = app, refusal, metrics, known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), BROKEN

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        refusal = self._refusal(scope["path"], given.decode("latin-1"))
        path = scope["path"] if scope["path"] in self._known else "other"
        try:
            await (self._app if refusal is None else _error(refusal))(scope, receive, watched)
        finally:
            self._metrics.observe_request(path, status, time.monotonic() - began)


async def _unless_gone(request: Request, work: Any) -> Response:
    document = await while_there(request.receive, work)
    return Response() if document is None else _json(document)  # nobody reads the former


def _put_all(pieces: Sequence[tuple[Job, Piece]]) -> None:
    for job, piece in pieces:
        job.put(piece)


def _json(document: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(document), status, headers, "application/json")


def _error(error: ApiError) -> Response:
    return _json(error.document, error.status, error.headers)


async def _told(request: Request, error: Any) -> Response:
    return _error(error)


async def _told_by_http(request: Request, error: Any) -> Response:
    """No such path, or not with this method."""
    message = {
        404: f"there is no {request.url.path:.200}",
        405: f"{request.url.path:.200} does not take {request.method:.20}",
    }.get(error.status_code, error.detail)
    return _error(ApiError(error.status_code, message, headers=error.headers))


async def _broken(request: Request, error: Exception) -> Response:
    """The traceback goes to the log, which uvicorn writes."""
    return _error(ApiError(BROKEN, "the server failed on this request; its log says more", code="failed"))


def _files() -> list[Route]:
    """The page and its modules, each at its own path."""

    def showing(text: Callable[[], str], media_type: str) -> Callable[[Request], Awaitable[Response]]:
        async def show(request: Request) -> Response:
            return Response(text(), headers=_FROM_HERE, media_type=media_type)

        return show

    modules = sorted(STATIC.glob("*.js"))
    return [
        Route("/", showing(live_page, "text/html")),
        Route("/microscope/saved.html", showing(partial(saved_page, None), "text/html")),
        *(Route(f"/{path.name}", showing(partial(path.read_text, "utf-8"), "text/javascript")) for path in modules),
    ]
