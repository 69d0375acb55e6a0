"""Ranks as processes of this machine, started and brought together without MPI. NCCL needs no more than that.

The starter tells each process its rank in the environment. Ranks meet in a temporary folder: a file of each says that
it has come, and one of the first says what the others need to know to connect.
"""

import math
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import write_atomically
from .mpi import ParallelError

_RANK, _SIZE, _FOLDER = "MOE_NUMPY_RANK", "MOE_NUMPY_RANKS", "MOE_NUMPY_MEETING"
_PASSED_ON = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_MEETING = 120.0  # seconds until all ranks must have come
_GRACE = 3.0  # seconds in which ranks can end by themselves after one has failed
_LOOK = 0.02  # seconds between two looks


@dataclass(frozen=True)
class Place:
    """The place of this process among the ranks that :func:`run_ranks` has started.

    Attributes:
        rank, size: as of a communicator.
        folder: where the ranks meet.
    """

    rank: int
    size: int
    folder: Path

    @classmethod
    def own(cls) -> "Place | None":
        """None if something else has started this process."""
        rank, size, folder = map(os.environ.get, (_RANK, _SIZE, _FOLDER))
        return Place(int(rank), int(size), Path(folder)) if rank and size and folder else None

    def told(self, make: Callable[[], bytes], within: float = _MEETING) -> bytes:
        """On every rank, what ``make`` returns on the first, which calls it once all have come.

        Raises:
            ParallelError: a rank has not come ``within`` this many seconds; the message names it.
        """
        message = self.folder / "message"
        if self.rank > 0:
            self._sign(self.rank).touch()
            _wait_for({0: message}, within)
            return message.read_bytes()
        _wait_for({rank: self._sign(rank) for rank in range(1, self.size)}, within)
        content = make()
        write_atomically({message: content})
        return content

    def end_with_starter(self) -> None:
        """End this process when the one that started it has ended, killed for instance: nobody else would end it."""

        def wait() -> None:
            os.read(0, 1)  # nobody writes there: it ends with the starter
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()

    def _sign(self, rank: int) -> Path:
        """A file that says that a rank has come."""
        return self.folder / f"rank-{rank}"


def _wait_for(files: Mapping[int, Path], within: float) -> None:
    end = time.monotonic() + within
    while missing := [rank for rank, path in files.items() if not path.exists()]:
        if time.monotonic() > end:
            ranks = f"rank{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
            raise ParallelError(f"{ranks} did not come within {within:g} s")
        time.sleep(_LOOK)


@dataclass(frozen=True)
class End:
    """How ranks ended.

    Attributes:
        code: the exit code for all: that of the rank that failed first, 128 + its number after a signal, 0 if none did.
        failure: which rank failed and how, in words; None if the ranks ended by themselves, and have said why.
    """

    code: int
    failure: str | None = None


def run_ranks(command: Sequence[str], size: int, environment: Mapping[str, str] | None = None) -> End:
    """Start ``size`` processes with this command and wait for their end. If one of them fails, all others are ended.

    SIGINT, SIGTERM and SIGHUP that come here are passed on. After one of them ranks have the time that they need; after
    a second one only a few seconds.

    Args:
        command: the program and its arguments.
        size: how many.
        environment: of the processes; that of this one by default.
    """
    base = dict(os.environ if environment is None else environment)
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="moe_numpy-") as folder, _noted_signals() as signals:
        try:
            for rank in range(size):
                own = {_RANK: str(rank), _SIZE: str(size), _FOLDER: folder}
                # in a session of its own: Ctrl-C reaches it once, from here
                process = subprocess.Popen(command, env=base | own, stdin=subprocess.PIPE, start_new_session=True)
                processes.append(process)
            return _ended(processes, signals)
        finally:
            for process in processes:
                process.kill()  # nothing, if it has ended
                process.wait()
                if process.stdin is not None:
                    process.stdin.close()


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Inside the block, signals that would end this process are only noted."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield noted
        return
    before = {number: signal.getsignal(number) for number in _PASSED_ON}
    before = {n: handler for n, handler in before.items() if handler != signal.SIG_IGN}  # SIGHUP under nohup
    for number in before:
        signal.signal(number, lambda n, _: noted.append(n))
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ended(processes: Sequence["subprocess.Popen[Any]"], signals: Sequence[int]) -> End:
    """Wait for all, pass signals on, and end those that cannot go on."""
    deadline, passed_on = math.inf, 0
    first: tuple[int, int] | None = None  # the rank that failed first, and what it returned
    ended_by_us = False
    while running := [process for process in processes if process.poll() is None]:
        for number in signals[passed_on:]:
            passed_on += 1
            for process in running:
                process.send_signal(number)
            if passed_on > 1:
                deadline = min(deadline, time.monotonic() + _GRACE)
        first = first or _failed(processes)
        if first is not None and not _as_asked(first[1], signals):
            deadline = min(deadline, time.monotonic() + _GRACE)
        if time.monotonic() > deadline:
            ended_by_us = True
            for process in running:
                process.kill()
                process.wait()
        time.sleep(_LOOK)
    first = first or _failed(processes)
    if first is None:
        return End(0)
    rank, code = first
    how = f"ended with exit code {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"
    by_itself = code > 0 and not ended_by_us
    others = "; the other ranks were ended too" if ended_by_us else ""
    failure = None if by_itself or _as_asked(code, signals) else f"rank {rank} {how}{others}"
    return End(code if code > 0 else 128 - code, failure)


def _failed(processes: Sequence["subprocess.Popen[Any]"]) -> tuple[int, int] | None:
    """The first rank that has not ended well, and what it returned."""
    return next(((rank, p.returncode) for rank, p in enumerate(processes) if p.returncode), None)


def _as_asked(code: int, signals: Sequence[int]) -> bool:
    """Whether a process ended because of a signal that was passed on."""
    return any(code in (-number, 128 + number) for number in signals)
