"""A child process for one solution: started, asked, and killed with all that it started."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import wire

ROOT = Path(__file__).resolve().parents[2]
_START = "from exercises.grading.child import main; main()"
MEMORY = 2 * 2**30
_START_LIMIT = 30.0  # seconds for the imports, from a cold disk too
_MOST_OUTPUT = 2**20  # bytes that one check may print
_KEPT_OUTPUT = 4000
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "NUMBA_DISABLE_JIT")


@dataclass(frozen=True)
class Solution:
    """What a child shall run: a learner's source, or trusted code by ``reference`` (module:qualname)."""

    attribute: str
    source: str = ""
    file: str = ""
    reference: str | None = None


@dataclass(frozen=True)
class Ended:
    """The child gave no answer; ``reason`` says why in words."""

    reason: str


class Child:
    """One process that serves one task, a name of ``child.TASKS``.

    ``ask`` returns its answer, or :class:`Ended`, after which the child is gone. Use it as a context manager:
    leaving the block kills its process group and deletes its folder.

    Args:
        task: what to do with requests.
        setup: what the task must know beforehand; ``preload`` names modules to import.
        time_limit: seconds for one answer.
        memory: bytes, where the system has such a limit.
    """

    def __init__(self, task: str, setup: dict[str, Any], time_limit: float, memory: int = MEMORY):
        self.time_limit = time_limit
        self.setup = setup | {"task": task, "time_limit": time_limit, "memory": memory}
        self.output = b""
        self._overflow = threading.Event()
        self._frames: queue.Queue[Any] = queue.Queue()

    def __enter__(self) -> "Child":
        self._folder = tempfile.mkdtemp(prefix="exercise-")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-B", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._folder,
            env=_environment(self._folder),
            start_new_session=True,
        )
        self._threads = [threading.Thread(target=f, daemon=True) for f in (self._read_frames, self._read_output)]
        for thread in self._threads:
            thread.start()
        self._send(self.setup)
        self._ready: Any = None
        return self

    def ask(self, request: dict[str, Any], time_limit: float = 0.0) -> Any:
        """The child's answer to one request, within the time limit, perhaps of its own; or Ended."""
        if self._ready is None:
            self._ready = self._receive(_START_LIMIT)
        if isinstance(self._ready, Ended):
            return self._ready
        self._send(request)
        return self._receive(time_limit or self.time_limit)

    def __exit__(self, *exception: object) -> None:
        self._kill()
        self._process.wait()
        for thread in self._threads:
            thread.join(timeout=1)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]
        _delete(self._folder)

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # a dead child: its end is noticed on the other pipe
            wire.write(self._process.stdin, message)  # type: ignore[arg-type]

    def _receive(self, limit: float) -> Any:
        deadline = time.monotonic() + limit
        while True:
            try:
                frame = self._frames.get(timeout=max(0.0, min(0.1, deadline - time.monotonic())))
                break
            except queue.Empty:
                if self._overflow.is_set():
                    return self._ended(f"more than {_MOST_OUTPUT // 2**20} MiB printed")
                if time.monotonic() >= deadline:
                    return self._ended(f"no answer within {limit:g} s: an endless loop, or far too slow")
        if isinstance(frame, Ended):
            if self._overflow.is_set():
                return self._ended(f"more than {_MOST_OUTPUT // 2**20} MiB printed")
            return self._ended(frame.reason or self._how_it_ended())
        return frame

    def _ended(self, reason: str) -> Ended:
        self._kill()
        self._ready = Ended(reason)
        return self._ready

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            return "the process closed its channel to the grader"
        if code >= 0:
            return f"the process ended by itself with exit code {code} before it answered (os._exit?)"
        name = signal.Signals(-code).name
        why = {"SIGKILL": "killed, perhaps for want of memory", "SIGXCPU": "too much processor time"}.get(
            name, "crashed"
        )
        return f"the process was ended by {name}: {why}"

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)  # the group bears the pid of its first process
            else:
                self._process.kill()

    def _read_frames(self) -> None:
        stream = self._process.stdout
        while True:
            try:
                self._frames.put(wire.read(stream))  # type: ignore[arg-type]
            except wire.BrokenMessageError as error:
                self._frames.put(Ended(f"what came back is no answer: {error}"))
                return
            except (EOFError, OSError, ValueError):
                self._frames.put(Ended(""))
                return

    def _read_output(self) -> None:
        stream = self._process.stderr
        total = 0
        with contextlib.suppress(OSError, ValueError):
            while chunk := stream.read1(65536):  # type: ignore[union-attr]
                total += len(chunk)
                self.output = (self.output + chunk)[:_KEPT_OUTPUT]
                if total > _MOST_OUTPUT and not self._overflow.is_set():
                    self._overflow.set()
                    self._kill()


def _environment(folder: str) -> dict[str, str]:
    """Only what Python needs: no secrets of the grader's environment, and one thread for each library."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    paths = [str(ROOT), *(str(Path(p).resolve()) for p in sys.path if p)]
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    return (
        passed_on
        | threads
        | {
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
            "MOE_NUMPY_KERNELS": "numpy",  # what the exercises explain; and no second for importing numba
            "HOME": folder,
            "TMPDIR": folder,
            "MPLBACKEND": "Agg",
            "PYTHONIOENCODING": "utf-8:replace",
        }
    )


def _delete(folder: str) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
