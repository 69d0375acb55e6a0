"""A server in a process of its own, at a free port of this machine."""

import json
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self
from urllib.request import urlopen

from .peer_process import PATIENCE, PeerError

_URL = re.compile(r"^Serving (?P<name>.*) at http://(?P<host>[\d.]+):(?P<port>\d+)/$")


class ServingProcess:
    """``python -m moe_numpy serve model options``, which ends with the block; by its own process id.

    Attributes:
        name: of the model, for clients.
        address: host and port.
        exit_status: when it has ended.

    Raises:
        PeerError: it ended before it was ready; the message has its last words.
    """

    def __init__(self, model: Path, *options: object):
        self.exit_status: int | None = None
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115 (closed by close)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moe_numpy", "serve", str(model), "--port", "0", *map(str, options)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,  # Ctrl-C comes to us alone
        )
        try:
            self.name, self.address = self._ready()
        except BaseException:
            self.close()
            raise

    @property
    def log(self) -> str:
        """What it has written on stderr so far."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def get(self, path: str) -> str:
        """What it answers. OSError if that is an error, or it does not answer in time."""
        host, port = self.address
        with urlopen(f"http://{host}:{port}{path}", timeout=PATIENCE) as answer:
            text: str = answer.read().decode()
        return text

    def health(self) -> dict[str, object]:
        """How the server is."""
        found: dict[str, object] = json.loads(self.get("/health"))
        return found

    def close(self) -> None:
        """Tell it to stop. It is killed if it does not."""
        self._process.send_signal(signal.SIGINT)
        try:
            self.exit_status = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.exit_status = self._process.wait()
        finally:
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ready(self) -> tuple[str, tuple[str, int]]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            found = _URL.match(line.rstrip())
            if found:
                return found["name"], (found["host"], int(found["port"]))
        words = self.log.strip().splitlines() or ["nothing"]
        raise PeerError(f"the server ended with {self._process.wait()} and said: {words[-1]}")
