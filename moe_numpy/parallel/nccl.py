"""Ranks as processes with a GPU each, which NCCL connects, through CuPy's binding.

One exchange is one group of sends and receives. All ranks begin their exchanges in the same order, in which NCCL does
them. Nothing here waits for a GPU, except for rows of NumPy, which have to come back to the host.
"""

import math
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..devices import namespace, on_host
from ..typing import Array, Shaped
from .communicator import Pending, require_counts
from .launching import Place
from .ledger import Ledger
from .mpi import Mpi, ParallelError

INSTALL = "python -m pip install nvidia-nccl-cu13"
_ALIGNED = 16  # bytes; NCCL moves memory that does not begin at a multiple of them byte by byte


def binding() -> Any:
    """CuPy's binding of NCCL. ParallelError if there is no such library."""
    # On machines whose GPUs are shared, NVLink multicast, which sends and receives do without, can disturb other users.
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own is ten lines long, and names another way to install
        from cupy.cuda import nccl
    if not nccl.available:
        raise ParallelError(f"several GPUs need NCCL, which is missing; {INSTALL}")
    return nccl


def require_gpus(num_ranks: int) -> None:
    """Whether ``num_ranks`` ranks can run on this machine.

    Raises:
        DeviceError: CuPy is missing or finds no GPU.
        ParallelError: there are fewer GPUs than ranks, or NCCL is missing.
    """
    num_gpus = namespace("cuda").cuda.runtime.getDeviceCount()
    if num_ranks > num_gpus:
        have = f"{num_gpus} GPUs" if num_gpus > 1 else "1 GPU"
        raise ParallelError(f"each rank needs a GPU of its own: {num_ranks} ranks, but this machine has {have}")
    binding()


class Nccl:
    """All processes of a job, as one of them sees them; see :class:`Communicator`.

    Args:
        rank, size: of this process.
        unique_id: what ``nccl.get_unique_id()`` returned on one of them.
        gpu: the number of this process' GPU, which becomes CuPy's current device.
        end: ends all processes of the job with an exit code.
    """

    def __init__(self, rank: int, size: int, unique_id: bytes, gpu: int, end: Callable[[int], None]):
        import cupy

        self._cupy, self._nccl, self._end = cupy, binding(), end
        cupy.cuda.Device(gpu).use()
        self.rank, self.size, self.ledger = rank, size, Ledger(size)
        self._ranks = self._nccl.NcclCommunicator(size, unique_id, rank)
        self._beside = cupy.cuda.Stream(non_blocking=True)

    @classmethod
    def among(cls, place: Place) -> "Nccl":
        """The ranks that :func:`moe_numpy.parallel.launching.run_ranks` has started."""
        place.end_with_starter()
        require_gpus(place.size)
        # the starter ends the others
        return cls(place.rank, place.size, place.told(binding().get_unique_id), place.rank, os._exit)

    @classmethod
    def beside(cls, mpi: Mpi) -> "Nccl":
        """The processes of an MPI job, on one machine or on many."""
        number, of_machine = mpi.on_this_machine()
        require_gpus(of_machine)
        return cls(mpi.rank, mpi.size, mpi.told(binding().get_unique_id), number, mpi.abort)

    def exchange(
        self, rows: Shaped[Array, "N *rest"], send: Sequence[int], receive: Sequence[int], kind: str
    ) -> Shaped[Array, "M *rest"]:
        require_counts(rows, send, receive, self.size)
        self.ledger.note(kind, rows, send, self.rank)
        out, into, one_row = self._on_device(rows, sum(receive))
        self._move(out, into, [n * one_row for n in send], [n * one_row for n in receive])
        return _come(into, rows, sum(receive))

    def begin(self, rows: Shaped[Array, "N *rest"], send: Sequence[int], receive: Sequence[int], kind: str) -> Pending:
        require_counts(rows, send, receive, self.size)
        self.ledger.note(kind, rows, send, self.rank)
        out, into, one_row = self._on_device(rows, sum(receive))
        self._beside.wait_event(self._cupy.cuda.get_current_stream().record())
        with self._beside:
            self._move(out, into, [n * one_row for n in send], [n * one_row for n in receive])
        return _Underway(self._cupy, self._beside.record(), out, into, rows, sum(receive))

    def abort(self, code: int) -> None:
        """End all processes of the job at once, with this exit code."""
        self._end(code)

    def _on_device(self, rows: Any, num_come: int) -> tuple[Any, Any, int]:
        """The rows, memory for those that come, and the bytes of one. Rows of NumPy are copied, as bytes."""
        cp, one_row = self._cupy, math.prod(rows.shape[1:]) * rows.dtype.itemsize
        if on_host(rows):
            as_bytes = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
            return cp.asarray(as_bytes), cp.empty(num_come * one_row, np.uint8), one_row
        return cp.ascontiguousarray(rows), cp.empty((num_come, *rows.shape[1:]), rows.dtype), one_row

    def _move(self, out: Any, into: Any, send: list[int], receive: list[int]) -> None:
        """All parts of ``out`` to their ranks, on the current stream; sizes are in bytes."""
        cp, stream = self._cupy, self._cupy.cuda.get_current_stream()
        leaving, coming = _parts(out.data, send), _parts(into.data, receive)
        if send[self.rank]:
            coming[self.rank].copy_from_device_async(leaving[self.rank], send[self.rank])
        peers = [rank for rank in range(self.size) if rank != self.rank]
        late = []  # parts that are copied to their place once they have come
        for rank in peers:
            if send[rank] and leaving[rank].ptr % _ALIGNED:
                staged = cp.empty(send[rank], np.uint8).data
                staged.copy_from_device_async(leaving[rank], send[rank])
                leaving[rank] = staged
            if receive[rank] and coming[rank].ptr % _ALIGNED:
                late.append((coming[rank], rank))
                coming[rank] = cp.empty(receive[rank], np.uint8).data
        self._nccl.groupStart()
        for rank in peers:
            if send[rank]:
                self._ranks.send(leaving[rank].ptr, send[rank], self._nccl.NCCL_CHAR, rank, stream.ptr)
            if receive[rank]:
                self._ranks.recv(coming[rank].ptr, receive[rank], self._nccl.NCCL_CHAR, rank, stream.ptr)
        self._nccl.groupEnd()
        for place, rank in late:
            place.copy_from_device_async(coming[rank], receive[rank])


class _Underway:
    """Rows that NCCL moves beside what the GPU computes; see :class:`Pending`.

    Both arrays stay alive until the current stream waits for their exchange.
    """

    def __init__(self, cupy: Any, moved: Any, out: Any, into: Any, rows: Any, num_come: int):
        self._cupy, self._moved, self._out, self._into = cupy, moved, out, into
        self._rows, self._num_come = rows, num_come

    def wait(self) -> Any:
        """The rows; the GPU waits for them, the host does not."""
        self._cupy.cuda.get_current_stream().wait_event(self._moved)
        return _come(self._into, self._rows, self._num_come)


def _parts(memory: Any, sizes: Sequence[int]) -> list[Any]:
    """Pointers to parts of so many bytes, one after the other."""
    return [memory + sum(sizes[:i]) for i in range(len(sizes))]


def _come(into: Any, rows: Any, num_come: int) -> Any:
    """What has come, in the form of the rows that were sent."""
    return into.get().view(rows.dtype).reshape(num_come, *rows.shape[1:]) if on_host(rows) else into
