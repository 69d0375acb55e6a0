"""Commands on several ranks: processes that mpiexec starts, or parts of one process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from shutil import which
from typing import TypeVar

import typer
from rich.console import Console

from ..parallel import Alone, Communicator
from ..parallel.mpi import INSTALL, Mpi, ParallelError, processes_of_job
from ..parallel.parts import PartStopped, run_parts
from .output import is_quiet

Result = TypeVar("Result")

_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_FIRST_SAYS = 1.0  # seconds that another rank gives the first to say what is wrong on all of them


def start_ranks(num_ranks: int | None) -> None:
    """Run this command again on ``num_ranks`` processes, and end as they end; return if that is not needed.

    Raises:
        ParallelError: mpiexec is missing, or it started another number of processes.
    """
    running = processes_of_job()
    if num_ranks is None or num_ranks == (running or 1):
        return
    if num_ranks < 1:
        raise ValueError(f"--ranks must be at least 1, got {num_ranks}")
    if running is not None:
        raise ParallelError(f"--ranks {num_ranks}, but mpiexec has started {running} processes; leave --ranks out")
    program = mpiexec()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {name: str(max(cores // num_ranks, 1)) for name in _THREADS if name not in os.environ}
    command = [program, "-n", str(num_ranks), sys.executable, "-m", "moe_numpy", *sys.argv[1:]]
    with subprocess.Popen(command, env=os.environ | threads) as job:
        for number in (signal.SIGINT, signal.SIGTERM):  # mpiexec passes them on, and we end when it does
            signal.signal(number, lambda n, _: job.send_signal(n) if n != signal.SIGINT else None)
        code = job.wait()
    raise typer.Exit(code if code >= 0 else 128 - code)


def mpiexec() -> str:
    """The program, of this environment or on the PATH. ParallelError if there is none."""
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else which("mpiexec")
    if found is None:
        raise ParallelError(f"several ranks need mpiexec, which is not installed; {INSTALL}")
    return found


def on_ranks(work: Callable[[Communicator], Result], num_parts: int | None = None) -> Result:
    """What ``work`` returns, called on this process as one of the ranks, or once for each of its parts.

    An error on one of several processes ends all of them.
    """
    if processes_of_job() in (None, 1):
        alone = Alone()
        return work(alone) if num_parts is None else run_parts(alone, num_parts, _heard(work))
    world = Mpi()
    try:
        work = _heard(work)
        return work(world) if num_parts is None else run_parts(world, num_parts, work)
    except typer.Exit as end:
        if end.exit_code == 0:
            raise
        _abort(world, int(end.exit_code))
        raise
    except BaseException as error:
        if not isinstance(error, PartStopped):
            sys.excepthook(type(error), error, error.__traceback__)
        _abort(world, 1)
        raise


def _heard(work: Callable[[Communicator], Result]) -> Callable[[Communicator], Result]:
    """``work``, in which only the first rank prints."""

    def quiet(communicator: Communicator) -> Result:
        token = is_quiet.set(communicator.rank > 0)
        try:
            return work(communicator)
        finally:
            is_quiet.reset(token)

    return quiet


def _abort(world: Mpi, code: int) -> None:
    """End all processes; they may be waiting for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    if world.rank > 0:
        time.sleep(_FIRST_SAYS)
    world.abort(code)


def console_of(communicator: Communicator, console: Console) -> Console:
    """The console of the first rank; of others, one that nobody reads."""
    return console if communicator.rank == 0 else Console(quiet=True)
