"""A peer in a process of its own: its threads and memory are not ours. Jobs and answers are lines of JSON."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, TextIO

PATIENCE = 10.0  # seconds until a process that does not end is killed


class PeerError(RuntimeError):
    """A peer ended without an answer."""


class PeerProcess:
    """``python -m module arguments``, which ends with the block; by its own process id.

    Raises:
        PeerError: it ended before it was ready; the message has its last words.
    """

    def __init__(self, name: str, module: str, *arguments: object):
        self.name = name
        self._errors = tempfile.TemporaryFile("w+b")  # noqa: SIM115 (closed by close)
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # Ctrl-C comes to us alone
        )
        try:
            self.ready = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, **job: Any) -> Any:
        """The answer to a job. PeerError if it ends instead."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        code = self._process.wait()
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines() or ["nothing"]
        raise PeerError(f"{self.name} ended with {code} and said: {words[-1]}")

    def close(self) -> None:
        """End it."""
        end(self._process)
        self._errors.close()


def end(process: subprocess.Popen) -> None:
    """End one process, and wait for that."""
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(BrokenPipeError):
            stream.close()  # type: ignore[union-attr]
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def answers() -> Iterator[TextIO]:
    """In that process: where answers go. Whatever libraries print goes to stderr."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        yield out


def answer_jobs(start: Callable[[], Callable[..., Any]]) -> None:
    """In that process: say ``null`` when ready, then answer each line with what a call with its fields returns."""
    with answers() as out:
        answer = start()
        print("null", file=out, flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(**json.loads(line))), file=out, flush=True)
