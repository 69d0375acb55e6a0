"""``--ranks N``: this command again, on N processes that mpiexec starts; and what became of them.

Ranks tell the process that started them who they are, and in which run folder they train, through files in a folder
that :data:`JOB` names. So when one is killed, there is someone left who can say which, and how to continue.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import IO, Any

import typer

from ..parallel.launching import Place, run_ranks
from ..parallel.mpi import INSTALL, ParallelError, processes_of_job
from ..parallel.nccl import require_gpus
from ..training import Run
from .output import command_line, refuse

JOB = "MOE_NUMPY_JOB"
_RUN = "run"
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_OF_MPICH = re.compile(
    rb"=+$|=   |\[(mpiexec|proxy)[@:]|YOUR APPLICATION TERMINATED WITH THE EXIT STRING|"
    rb"This typically refers to a problem with your application|Please see the FAQ page for debugging"
)
_DEATH = re.compile(rb"=   (PID|EXIT CODE:) (\d+)")


def start_ranks(num_ranks: int | None, device: Callable[[], str] = lambda: "cpu", module: str = "moe_numpy") -> None:
    """Run this command again on ``num_ranks`` processes, and end as they end; return if that is not needed.

    Args:
        num_ranks: those of mpiexec by default.
        device: where they are to compute, called before they start. MPI connects ranks on ``"cpu"``, and mpiexec
            starts them; NCCL those on ``"cuda"``, a GPU each.
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
    if device() == "cuda":
        require_gpus(num_ranks)
        end = run_ranks(command, num_ranks, os.environ | threads)
        if end.failure is not None:
            refuse(end.failure, end.code)
        raise typer.Exit(end.code)
    command = [mpiexec(), "-n", str(num_ranks), *command]
    with TemporaryDirectory(prefix="moe_numpy-") as folder:
        # in a group of its own: Ctrl-C of the terminal comes here, and reaches mpiexec once
        with subprocess.Popen(
            command, env=os.environ | threads | {JOB: folder}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            process_group=0,
        ) as job, _forwarded_signals(job):  # fmt: skip
            assert job.stdout is not None
            death = _pass_on(job.stdout, job)
            code = job.wait()
        if death is not None or code < 0:
            _tell_of(death, -code, Path(folder), num_ranks)
    raise typer.Exit(code)


def mpiexec() -> str:
    """The program, of this environment or on the PATH. ParallelError if there is none."""
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else which("mpiexec")
    if found is None:
        raise ParallelError(f"several ranks need mpiexec, which is not installed; {INSTALL}")
    return found


def introduce(rank: int) -> None:
    """Tell the process that has started this one which rank it is."""
    _note(str(os.getpid()), str(rank))


def tell_run(folder: Path) -> None:
    """Tell the process that has started this one which run it trains."""
    _note(_RUN, str(folder))


def ranks_option() -> list[object]:
    """What a command needs to run on as many ranks as this one."""
    num_ranks = processes_of_job() or 1
    return ["--ranks", num_ranks] if num_ranks > 1 else []


def _note(name: str, text: str) -> None:
    if JOB in os.environ:
        path = Path(os.environ[JOB]) / name
        if path.parent.is_dir():  # not of a job that has ended
            path.write_text(text)


@dataclass(frozen=True)
class _Death:
    """A process that a signal ended."""

    process: int
    signal: int


@contextmanager
def _forwarded_signals(job: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP are for the ranks; mpiexec passes on the first two. This process ends after them."""
    passed_on = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM, "SIGHUP": signal.SIGTERM}
    sent = {getattr(signal, name): to for name, to in passed_on.items() if hasattr(signal, name)}
    before = {number: signal.getsignal(number) for number in sent}
    before = {n: handler for n, handler in before.items() if handler != signal.SIG_IGN or n == signal.SIGINT}
    for number in before:
        signal.signal(number, lambda received, frame: job.send_signal(sent[received]))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pass_on(lines: IO[bytes], job: "subprocess.Popen[bytes]") -> _Death | None:
    """Print what the ranks print; of what MPICH says itself keep who died, and of what."""
    out: Any = sys.stdout.buffer
    found: dict[bytes, int] = {}
    for line in lines:
        if _OF_MPICH.match(line.rstrip()):
            death = _DEATH.match(line)
            if death is not None:
                found.setdefault(death[1], int(death[2]))
            continue
        try:
            out.write(line)
            out.flush()
        except BrokenPipeError:  # nobody reads on; what is trained is saved
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            job.send_signal(signal.SIGTERM)
    return _Death(found[b"PID"], found[b"EXIT CODE:"]) if len(found) == 2 else None


def _tell_of(death: _Death | None, of_mpiexec: int, folder: Path, num_ranks: int) -> None:
    """One line: who was killed, what is saved, how to continue."""
    if death is None:
        number, who = of_mpiexec, "mpiexec"
    else:
        path = folder / str(death.process)
        number, who = death.signal, f"rank {path.read_text()}" if path.exists() else f"process {death.process}"
    told = f"{who} was killed by {signal.Signals(number).name}, and all ranks have ended"
    if (folder / _RUN).exists():
        run = Run.open(Path((folder / _RUN).read_text()))
        step = run.newest_step()
        kept = "there is no checkpoint yet" if step is None else f"{run.folder} keeps the checkpoint of step {step}"
        resume = command_line("train", "--resume", "--out", run.folder, "--ranks", num_ranks)
        told += f"; {kept}. Continue with: {resume}"
    refuse(told, exit_code=128 + number)
