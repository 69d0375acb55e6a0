"""A child process for one solution: started, asked, and killed with all that it started.

The parent never waits without end: threads of their own write and read the pipes, and one that a process outside the
parent's reach keeps open is left to its thread.
"""

import contextlib
import io
import os
import queue
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from .. import containment
from ..containment import bubblewrap, fingerprint
from . import answers, wire
from .child import NOT_ALLOWED
from .ended import Ended
from .folders import delete

ROOT = Path(__file__).resolve().parents[2]
_START = "from exercises.grading.child import main; main()"
MEMORY = 2 * 2**30
_START_LIMIT = 30.0  # seconds for the imports, from a cold disk too
_PATIENCE = 5.0  # times the limit, for a process that shares its processor with others
_SHARE = 0.1  # of the time; who uses less of a processor sleeps
_MOST_OUTPUT = 2**20  # bytes that one check may print
_KEPT_OUTPUT = 4000
_TOO_MUCH = f"more than {_MOST_OUTPUT // 2**20} MiB printed"
_MARK = "EXERCISES_CHILD"  # in the environment of all that a child starts
_ROUNDS = 10  # in which processes that start others are killed
_SIGNALS = {
    "SIGKILL": "killed, perhaps out of memory",
    "SIGXCPU": "too much processor time",
    "SIGSYS": "it tried to start a process, open a socket or send a signal",
}
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "NUMBA_DISABLE_JIT")


@dataclass(frozen=True)
class Solution:
    """What a child shall run: a learner's source, or trusted code by ``reference`` (module:qualname)."""

    attribute: str
    source: str = ""
    file: str = ""
    reference: str | None = None


class Child:
    """One process that serves one task, a name of ``child.TASKS``.

    ``ask`` returns its answer, or :class:`Ended`, after which the child is gone. Use it as a context manager:
    leaving the block kills its process group and deletes its folder.

    Args:
        task: what to do with requests.
        setup: what the task must know beforehand; ``preload`` names modules to import.
        time_limit: seconds for one answer.
        memory: bytes, where the system has such a limit.
        stop: set by whoever does not want the answer any more: the child is killed at once.
    """

    def __init__(
        self,
        task: str,
        setup: dict[str, Any],
        time_limit: float,
        memory: int = MEMORY,
        stop: threading.Event | None = None,
    ):
        self.time_limit = time_limit
        self._stop = stop or threading.Event()
        self.layers = containment.available()
        own = {"task": task, "time_limit": time_limit, "memory": memory, "layers": list(self.layers)}
        self.setup = setup | own
        self.output = b""
        self._overflow = threading.Event()
        self._left = threading.Event()
        self._frames: queue.Queue[Any] = queue.Queue(maxsize=1)
        self._messages: queue.Queue[Any] = queue.Queue()

    def __enter__(self) -> "Child":
        if not containment.read_only(self.layers):
            fingerprint.changed()  # how the code is now, before a solution runs
        self._mark = secrets.token_hex(16)
        self._folder = os.path.realpath(tempfile.mkdtemp(prefix="exercise-"))
        self._process = subprocess.Popen(
            [
                *(bubblewrap.prefix(self._folder) if "bubblewrap" in self.layers else ()),
                *(sys.executable, "-P", "-B", "-c", _START),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._folder,
            env=_environment(self._folder) | {_MARK: self._mark},
            start_new_session=True,
        )
        work = (self._write_messages, self._read_frames, self._read_output)
        self._threads = [threading.Thread(target=f, daemon=True) for f in work]
        for thread in self._threads:
            thread.start()
        self._messages.put(self.setup)
        self._ready: Any = None
        return self

    def ask(self, request: dict[str, Any], time_limit: float = 0.0) -> Any:
        """The child's answer to one request, within the time limit, perhaps of its own; or Ended."""
        if self._ready is None:
            self._ready = self._receive("ready", _START_LIMIT)
            if not isinstance(self._ready, Ended):
                self.layers = tuple(self._ready.get("layers", ()))
        if isinstance(self._ready, Ended):
            return self._ready
        number = secrets.token_hex(8)  # not to be foreseen: an answer written in advance is no answer
        self._messages.put({"id": number, "request": request})
        answer = self._receive(number, time_limit or self.time_limit)
        changed = "" if containment.read_only(self.layers) else fingerprint.changed()
        if changed:
            return self._ended(f"code changed while it was graded; start again, with a fresh {changed}")
        return answer

    def __exit__(self, *exception: object) -> None:
        self._left.set()
        self._kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self._messages.put(None)
        deadline = time.monotonic() + 1
        for thread in self._threads:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))
        delete(self._folder)

    def _receive(self, number: str, limit: float) -> Any:
        began, used_before = time.monotonic(), _processor_seconds(self._process.pid)
        while True:
            try:
                frame = self._frames.get(timeout=min(0.1, limit))
                break
            except queue.Empty:
                if self._stop.is_set():
                    return self._ended("stopped")
                if self._overflow.is_set():
                    return self._ended(_TOO_MUCH)
                used = _processor_seconds(self._process.pid) - used_before
                if _is_over(time.monotonic() - began, used, limit):
                    return self._ended(f"no answer within {limit:g} s: an endless loop, or far too slow")
        if isinstance(frame, Ended):
            return self._ended(_TOO_MUCH if self._overflow.is_set() else frame.reason or self._how_it_ended())
        try:
            answer = _answer_to(number, frame)
        except wire.BrokenMessageError as error:
            return self._ended(f"what came back is no answer: {error}")
        return answer

    def _ended(self, reason: str) -> Ended:
        self._kill()
        self._ready = Ended(reason)
        return self._ready

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            return "the process closed its channel to the grader"
        if "bubblewrap" in self.layers and code > 128:
            code = 128 - code  # a shell's way to tell a signal
        if code >= 0:
            return f"the process ended by itself with exit code {code} before it answered (os._exit?)"
        name = next((s.name for s in signal.Signals if s == -code), f"signal {-code}")
        return f"the process was ended by {name}: {_SIGNALS.get(name, 'crashed')}"

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)  # the group bears the pid of its first process
            else:
                self._process.kill()
        if not {"bubblewrap", "seccomp"}.intersection(self.layers):
            _kill_marked(f"{_MARK}={self._mark}".encode())

    def _write_messages(self) -> None:
        stream: Any = self._process.stdin
        with contextlib.suppress(OSError):  # a dead child: its end is noticed on the other pipe
            while (message := self._messages.get()) is not None:
                wire.write(stream, message)
        with contextlib.suppress(OSError):
            stream.close()

    def _read_frames(self) -> None:
        with self._process.stdout as stream:  # type: ignore[union-attr]
            frame: Any = None
            while not isinstance(frame, Ended):
                try:
                    frame = wire.read(stream)  # type: ignore[arg-type]
                except wire.BrokenMessageError as error:
                    frame = Ended(f"what came back is no answer: {error}")
                except (EOFError, OSError, ValueError, MemoryError):
                    frame = Ended("")
                while not self._left.is_set():
                    with contextlib.suppress(queue.Full):
                        self._frames.put(frame, timeout=0.1)
                        break
                else:
                    return

    def _read_output(self) -> None:
        total, stream = 0, cast(io.BufferedReader, self._process.stderr)
        with contextlib.suppress(OSError, ValueError), stream:
            while chunk := stream.read1(65536):
                total += len(chunk)
                self.output = (self.output + chunk)[:_KEPT_OUTPUT]
                if total > _MOST_OUTPUT:
                    self._overflow.set()
                    self._kill()
                    return


def _is_over(seconds: float, used: float, limit: float) -> bool:
    """Whether the time is up: by the clock, or, if others use the processor too, by what it had of the processor."""
    waits_for_processor = _SHARE * seconds < used < limit and seconds < _PATIENCE * limit
    return seconds >= limit and not waits_for_processor


def _processor_seconds(pid: int) -> float:
    """What a process has used so far; 0 where the system does not say."""
    try:
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return 0.0


def _answer_to(number: str, frame: Any) -> dict[str, Any]:
    """What a message says, if it is about this request. BrokenMessageError for any other."""
    known = frame.get("id") if type(frame) is dict else None
    if type(known) is not str or known not in (number, NOT_ALLOWED):
        raise wire.BrokenMessageError("it answers no request")
    answer = answers.checked(frame.get("answer"))
    if known == NOT_ALLOWED and answer.keys() != {"not_allowed"}:  # the hook says nothing else
        raise wire.BrokenMessageError("it answers no request")
    return answer


def _kill_marked(mark: bytes) -> None:
    """Kill the processes that a child left behind in sessions of their own, where the system shows environments."""
    for _ in range(_ROUNDS):
        found = False
        for pid in os.listdir("/proc") if os.path.isdir("/proc") else ():
            with contextlib.suppress(OSError):
                if pid.isdigit() and mark in Path("/proc", pid, "environ").read_bytes():
                    os.kill(int(pid), signal.SIGKILL)
                    found = True
        if not found:
            return


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
