"""Ranks as processes that MPI connects, through mpi4py."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from array_api_compat import array_namespace

from ..typing import Array, Shaped
from .communicator import require_counts
from .ledger import Ledger

INSTALL = "python -m pip install mpi4py mpich"
_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")  # what an mpiexec tells the processes that it starts
_STDERR = 2


class ParallelError(ValueError):
    """Ranks cannot be connected here; the message says why and what to do."""


def processes_of_job() -> int | None:
    """How many processes the mpiexec that started this one has started; None without one."""
    for name in _SIZES:
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return None


@cache
def world() -> Any:
    """MPI's own communicator of all processes. ParallelError if mpi4py or MPI is missing."""
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ParallelError(f"several processes need mpi4py and an MPI library; {INSTALL}") from error
    except RuntimeError as error:  # no library that it could load
        raise ParallelError(f"mpi4py finds no MPI library: {error}; {INSTALL}") from error
    return MPI.COMM_WORLD


class Mpi:
    """All processes of an MPI job, as one of them sees them; see :class:`Communicator`."""

    def __init__(self) -> None:
        self._world = world()
        self.rank, self.size = self._world.Get_rank(), self._world.Get_size()
        self.ledger = Ledger(self.size)

    def exchange(
        self, rows: Shaped[Array, "N *rest"], send: Sequence[int], receive: Sequence[int], kind: str
    ) -> Shaped[Array, "M *rest"]:
        return self.begin(rows, send, receive, kind).wait()

    def begin(
        self, rows: Shaped[Array, "N *rest"], send: Sequence[int], receive: Sequence[int], kind: str
    ) -> "_Underway":
        require_counts(rows, send, receive, self.size)
        self.ledger.note(kind, rows, send, self.rank)
        xp = array_namespace(rows)
        out = xp.ascontiguousarray(rows)
        into = xp.empty((sum(receive), *rows.shape[1:]), dtype=rows.dtype)
        one_row = out.nbytes // len(out) if len(out) else into.nbytes // max(len(into), 1)
        request = self._world.Ialltoallv(
            [_bytes(out), [n * one_row for n in send]], [_bytes(into), [n * one_row for n in receive]]
        )
        return _Underway(request, out, into)

    def told(self, make: Callable[[], bytes]) -> bytes:
        """On every process, what ``make`` returns on the first."""
        content: bytes = self._world.bcast(make() if self.rank == 0 else b"")
        return content

    def on_this_machine(self) -> tuple[int, int]:
        """The number of this process among those of its machine, and how many these are."""
        from mpi4py import MPI

        of_machine = self._world.Split_type(MPI.COMM_TYPE_SHARED)
        return of_machine.Get_rank(), of_machine.Get_size()

    def abort(self, code: int) -> None:
        """End all processes of the job at once, with this exit code. What MPI says of that is not shown."""
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDERR)
        self._world.Abort(code)


class _Underway:
    """Rows that MPI moves; see :class:`Pending`. Both arrays stay alive until they are there."""

    def __init__(self, request: Any, out: Any, into: Any):
        self._request, self._out, self._into = request, out, into

    def wait(self) -> Any:
        self._request.Wait()
        return self._into


def _bytes(rows: Any) -> Any:
    """The memory of an array, whatever its dtype."""
    return rows.reshape(-1).view("uint8")
