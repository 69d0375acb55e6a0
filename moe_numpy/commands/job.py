"""Commands on several ranks: processes that mpiexec or this package has started, or parts of one process."""

import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import typer
from rich.console import Console

from ..parallel import Alone, Communicator
from ..parallel.collectives import require_equal
from ..parallel.launching import Place
from ..parallel.mpi import Mpi, processes_of_job
from ..parallel.nccl import Nccl
from ..parallel.parts import PartStopped, run_parts
from ..training.versions import versions
from .output import Refusal, is_quiet, refusals
from .starting_ranks import introduce

Result = TypeVar("Result")

_FIRST_SAYS = 1.0  # seconds that another rank gives the first to say what is wrong on all of them


def on_ranks(
    work: Callable[[Communicator], Result],
    parts: Callable[[], int | None] = lambda: None,
    options: Mapping[str, Any] | None = None,
    device: Callable[[], str] = lambda: "cpu",
) -> Result:
    """What ``work`` returns, called on this process as one of the ranks, or once for each of its parts.

    An error on one of several processes ends all of them. What is refused on all, the first one says.

    Args:
        work: of each rank.
        parts: of how many parts of all processes there are; None for one rank a process. What it refuses, is refused.
        options: what the user asked for, which must not differ between processes, and neither may versions.
        device: where the ranks compute, likewise.
    """
    place = Place.own()
    if place is None and processes_of_job() in (None, 1):
        alone = Alone()
        try:
            num_parts = parts()
            return work(alone) if num_parts is None else run_parts(alone, num_parts, _heard(work))
        except Refusal as refusal:
            refusal.say()
            raise
    world: Mpi | Nccl
    if place is not None:
        with refusals():
            world = Nccl.among(place)
    else:
        world = Mpi()
        introduce(world.rank)

    def num_parts_of_all(communicator: Communicator) -> int | None:
        num_parts = parts()
        with refusals():
            require_equal(communicator, versions() | {"parts": num_parts} | dict(options or {}))
        return num_parts

    def connected(communicator: Communicator) -> Communicator:
        with refusals():
            return Nccl.beside(world) if isinstance(world, Mpi) and device() == "cuda" else communicator

    try:
        num_parts = _heard(num_parts_of_all)(world)
        between = _heard(connected)(world)
        return _heard(work)(between) if num_parts is None else run_parts(between, num_parts, _heard(work))
    except BaseException as error:
        if not isinstance(error, typer.Exit) or error.exit_code:
            _end_all(world, error)
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


def _end_all(world: Mpi | Nccl, error: BaseException) -> None:
    """End all processes, which may be waiting for this one; say why unless the first does."""
    sys.stdout.flush()
    if world.rank > 0:
        time.sleep(_FIRST_SAYS)
    code = 1
    if isinstance(error, typer.Exit):
        code = int(error.exit_code)
    elif isinstance(error, KeyboardInterrupt):
        code = 128 + signal.SIGINT
    elif isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 1
    elif not isinstance(error, PartStopped):
        sys.excepthook(type(error), error, error.__traceback__)
    if isinstance(error, Refusal):
        error.say(f"rank {world.rank}: " if world.rank > 0 else "")
    world.abort(code)


def console_of(communicator: Communicator, console: Console) -> Console:
    """The console of the first rank; of others, one that nobody reads."""
    return console if communicator.rank == 0 else Console(quiet=True)
