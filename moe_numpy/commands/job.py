"""Commands on several ranks: processes that mpiexec starts, or this one for GPUs, or parts of one process."""

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
from ..parallel.launching import Place, run_ranks
from ..parallel.mpi import INSTALL, Mpi, ParallelError, processes_of_job
from ..parallel.nccl import Nccl, require_gpus
from ..parallel.parts import PartStopped, run_parts
from .output import is_quiet, refusals, refuse

Result = TypeVar("Result")

_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_FIRST_SAYS = 1.0  # seconds that another rank gives the first to say what is wrong on all of them


def start_ranks(num_ranks: int | None, device: str = "cpu", module: str = "moe_numpy") -> None:
    """Run this command again on ``num_ranks`` processes, and end as they end; return if that is not needed.

    Args:
        num_ranks: those of mpiexec by default.
        device: MPI connects ranks on ``"cpu"``, and mpiexec starts them; NCCL those on ``"cuda"``, a GPU each.
        module: whose command this is.

    Raises:
        DeviceError: CuPy is missing or finds no GPU.
        ParallelError: mpiexec or NCCL is missing, there are too few GPUs, or mpiexec started another number of
            processes.
    """
    place = Place.own()
    running = processes_of_job() if place is None else place.size
    if num_ranks is None or num_ranks == (running or 1):
        return
    if num_ranks < 1:
        raise ValueError(f"--ranks must be at least 1, got {num_ranks}")
    if running is not None:
        raise ParallelError(f"--ranks {num_ranks}, but mpiexec has started {running} processes; leave --ranks out")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {name: str(max(cores // num_ranks, 1)) for name in _THREADS if name not in os.environ}
    command = [sys.executable, "-m", module, *sys.argv[1:]]
    if device == "cuda":
        require_gpus(num_ranks)
        end = run_ranks(command, num_ranks, os.environ | threads)
        if end.failure is not None:
            refuse(end.failure, end.code)
        raise typer.Exit(end.code)
    command = [mpiexec(), "-n", str(num_ranks), *command]
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


def on_ranks(work: Callable[[Communicator], Result], num_parts: int | None = None, device: str = "cpu") -> Result:
    """What ``work`` returns, called on this process as one of the ranks, or once for each of its parts.

    An error on one of several processes ends all of them. ``device`` is where they compute, see :func:`start_ranks`.
    """
    world = _connected(device)
    if world is None:
        alone = Alone()
        return work(alone) if num_parts is None else run_parts(alone, num_parts, _heard(work))
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


def _connected(device: str) -> Mpi | Nccl | None:
    """The processes of this job; None if this is the only one."""
    with refusals():
        place = Place.own()
        if place is not None:
            return Nccl.among(place)
        if processes_of_job() in (None, 1):
            return None
        return Nccl.beside(Mpi()) if device == "cuda" else Mpi()


def _heard(work: Callable[[Communicator], Result]) -> Callable[[Communicator], Result]:
    """``work``, in which only the first rank prints."""

    def quiet(communicator: Communicator) -> Result:
        token = is_quiet.set(communicator.rank > 0)
        try:
            return work(communicator)
        finally:
            is_quiet.reset(token)

    return quiet


def _abort(world: Mpi | Nccl, code: int) -> None:
    """End all processes; they may be waiting for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    if world.rank > 0:
        time.sleep(_FIRST_SAYS)
    world.abort(code)


def console_of(communicator: Communicator, console: Console) -> Console:
    """The console of the first rank; of others, one that nobody reads."""
    return console if communicator.rank == 0 else Console(quiet=True)
