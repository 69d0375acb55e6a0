"""The built site, served to a browser on this machine."""

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SITE = Path(__file__).parent / "_build" / "html"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Logs nothing."""

    def log_message(self, *told: object) -> None:
        """Nothing."""


@contextmanager
def served(handler: type[QuietHandler] = QuietHandler) -> Iterator[str]:
    """The address of the site, while the block runs."""
    serve = functools.partial(handler, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
