"""The server in a process: its socket, its signals, its orderly end."""

import errno
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread, current_thread, main_thread
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from .app import Limits, Server
from .engine import Engine
from .served import Served
from .slow_clients import PromptProtocol

GRACE = 5.0  # seconds in which answers may end
_REST = 2  # seconds more, to send what is left
_MOST_CONNECTIONS = 1000


class HttpServer(uvicorn.Server):
    """uvicorn, which on SIGINT or SIGTERM takes no new requests, lets answers end for a while, and returns.

    Args:
        app: of the paths.
        engine: writes the answers.
    """

    def __init__(self, app: ASGIApp, engine: Engine):
        super().__init__(
            uvicorn.Config(
                app,
                http=PromptProtocol,
                ws="none",
                log_level="warning",
                access_log=False,
                server_header=False,
                limit_concurrency=_MOST_CONNECTIONS,
                timeout_graceful_shutdown=round(GRACE) + _REST,
            )
        )
        self._engine = engine

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a server that was told to stop has not failed: the signal is not raised again."""
        if current_thread() is not main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        Thread(target=self._engine.stop, args=(GRACE,), daemon=True).start()  # meanwhile answers go out
        await super().shutdown(sockets)


def http_server(served: Served, engine: Engine, api_key: str | None = None, limits: Limits | None = None) -> HttpServer:
    """A server that is ready to ``run(sockets=[...])``."""
    return HttpServer(Server(served, engine, api_key, limits or Limits()).application(), engine)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens, at any free port if that is 0.

    Raises:
        OSError: the name is unknown, or the port is taken or not allowed; the message says which.
    """
    try:
        found: Any = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:  # a label of a name may be too long
        raise OSError(f"--host {host}: {getattr(error, 'strerror', None) or 'is no name of a machine'}") from error
    family, kind, protocol, _, address = found
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(1024)
    except OSError as error:
        made.close()
        reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
        raise OSError(f"port {port} of {host} {reason}; --port names another") from error
    made.setblocking(False)
    return made


def url_of(made: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = made.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
