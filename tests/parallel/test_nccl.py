"""What travels between GPUs, with a stand-in for CuPy and NCCL; on real ones: tests/gpu/test_two_gpus.py."""

import sys
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from parallel.fake_cupy import FakeArray, Stream, Wire, modules

from moe_numpy.devices import DeviceError
from moe_numpy.parallel import Communicator, nccl
from moe_numpy.parallel.communicator import Pending
from moe_numpy.parallel.launching import Place
from moe_numpy.parallel.mpi import Mpi, ParallelError

DTYPES = ["float32", "float64", "int64", "uint8", "bool", ml_dtypes.bfloat16]


@pytest.fixture
def wire(monkeypatch):
    wire = Wire()
    wire.modules = modules(wire, num_gpus=3)
    for name, module in wire.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(nccl, "on_host", lambda x: not isinstance(x, FakeArray))
    monkeypatch.setattr(nccl, "namespace", lambda device: wire.modules["cupy"])
    return wire


def on_ranks(size, work):
    """``work(communicator)`` on each of ``size`` threads."""
    made = [nccl.Nccl(rank, size, b"id", rank, lambda code: None) for rank in range(size)]
    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(work, made))


def rows_of(rank, counts, width, dtype):
    """What rank sends, different in every entry, on the GPU."""
    rows = np.random.default_rng(rank).integers(0, 120, (sum(counts), *width)).astype(dtype)
    return rows.view(FakeArray)


COUNTS = [[[3, 0, 5], [1, 2, 0], [0, 4, 1]], [[0, 0, 0]] * 3, [[2, 7, 3], [4, 1, 0], [9, 0, 0]]]  # [from][to]


@pytest.mark.parametrize("begin", [False, True])
@pytest.mark.parametrize("width", [(), (5,), (8,), (0,), (2, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("counts", COUNTS)
def test_every_row_arrives_where_it_is_wanted(wire, counts, width, dtype, begin):
    def work(communicator):
        rank = communicator.rank
        rows = rows_of(rank, counts[rank], width, dtype)
        receive = [counts[r][rank] for r in range(3)]
        if begin:
            return communicator.begin(rows, counts[rank], receive, "rows").wait()
        return communicator.exchange(rows, counts[rank], receive, "rows")

    for rank, found in enumerate(on_ranks(3, work)):
        parts = [np.split(rows_of(r, counts[r], width, dtype), np.cumsum(counts[r])[:-1])[rank] for r in range(3)]
        assert found.dtype == np.dtype(dtype)
        assert isinstance(found, FakeArray)
        np.testing.assert_array_equal(found, np.concatenate(parts))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_numpy_come_back_as_such(wire, dtype):
    def work(communicator):
        rows = np.asfortranarray(np.arange(8).reshape(4, 2) + 10 * communicator.rank).astype(dtype)
        return communicator.exchange(rows, [3, 1], [[3, 3], [1, 1]][communicator.rank], "rows")

    first, second = on_ranks(2, work)
    whole = [(np.arange(8).reshape(4, 2) + 10 * rank).astype(dtype) for rank in (0, 1)]
    for found, expected in ((first, [w[:3] for w in whole]), (second, [w[3:] for w in whole])):
        assert type(found) is np.ndarray
        assert found.flags.writeable
        np.testing.assert_array_equal(found, np.concatenate(expected))


def test_memory_that_nccl_moves_begins_at_multiples_of_16_bytes(wire):
    """Three floats a row: most parts do not lie so."""
    counts = COUNTS[2]

    def work(communicator):
        rank = communicator.rank
        rows = rows_of(rank, counts[rank], (3,), np.float32)
        communicator.exchange(rows, counts[rank], [counts[r][rank] for r in range(3)], "rows")

    on_ranks(3, work)
    assert wire.log
    assert {offset for *_, offset, _ in wire.log} == {0}


def test_what_stays_and_what_is_empty_is_not_sent(wire):
    counts = [[3, 2], [0, 5]]
    receive = [[3, 0], [2, 5]]

    def work(communicator):
        rank = communicator.rank
        communicator.exchange(rows_of(rank, counts[rank], (4,), np.float32), counts[rank], receive[rank], "rows")
        return communicator.ledger.sent["rows"].tolist()

    assert on_ranks(2, work) == [[0, 32], [0, 0]]
    assert [entry[:4] for entry in sorted(wire.log)] == [(0, "send", 1, 32), (1, "recv", 0, 32)]


def test_what_is_begun_moves_beside_the_current_stream(wire):
    def work(communicator):
        current = Stream.current()
        pending = communicator.begin(rows_of(0, [1, 1], (4,), np.float32), [1, 1], [1, 1], "rows")
        assert isinstance(pending, Pending)
        before = list(current.waited_for)
        pending.wait()
        return communicator._beside.waited_for, before, current.waited_for, communicator._beside.ptr

    for beside_waited, before, after, ptr in on_ranks(2, work):
        assert beside_waited == ["event of 0"]  # for what computed the rows
        assert before == []
        assert after == [f"event of {ptr}"]
    assert {stream for *_, stream in wire.log} == {7}


def test_counts_that_do_not_fit_are_refused(wire):
    (communicator,) = on_ranks(1, lambda communicator: communicator)
    assert isinstance(communicator, Communicator)
    with pytest.raises(ValueError, match="2 rows are to be sent, got 3"):
        communicator.exchange(rows_of(0, [3], (1,), np.float32), [2], [2], "rows")


def test_ranks_of_the_starter_have_a_gpu_each(wire, tmp_path, monkeypatch):
    monkeypatch.setattr(Place, "end_with_starter", lambda place: None)
    with ThreadPoolExecutor(3) as threads:
        made = list(threads.map(nccl.Nccl.among, [Place(rank, 3, tmp_path) for rank in range(3)]))
    assert [(each.rank, each.size) for each in made] == [(0, 3), (1, 3), (2, 3)]
    assert sorted(wire.modules["cupy.cuda"].used) == [0, 1, 2]


class FakeMpi(Mpi):
    rank, size, aborted = 5, 8, None

    def __init__(self):
        pass

    def on_this_machine(self):
        return 1, 2

    def told(self, make):
        return b"id"

    def abort(self, code):
        self.aborted = code


def test_processes_of_an_mpi_job_use_the_gpus_of_their_machine(wire):
    mpi = FakeMpi()
    found = nccl.Nccl.beside(mpi)
    assert (found.rank, found.size, wire.modules["cupy.cuda"].used) == (5, 8, [1])
    found.abort(3)
    assert mpi.aborted == 3


def test_more_ranks_than_gpus_are_refused(wire):
    nccl.require_gpus(3)
    with pytest.raises(ParallelError, match="each rank needs a GPU of its own: 4 ranks, but this machine has 3 GPUs"):
        nccl.require_gpus(4)


def test_without_nccl_or_cupy_it_says_what_to_install(wire, monkeypatch):
    wire.modules["cupy.cuda.nccl"].available = False
    with pytest.raises(ParallelError, match="several GPUs need NCCL, which is missing; python -m pip install nvidia"):
        nccl.require_gpus(2)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match="device cuda: CuPy"):
        nccl.require_gpus(2)


def test_nvlink_multicast_stays_off_unless_asked_for(wire, monkeypatch):
    monkeypatch.delenv("NCCL_NVLS_ENABLE", raising=False)
    nccl.binding()
    assert nccl.os.environ["NCCL_NVLS_ENABLE"] == "0"
    monkeypatch.setenv("NCCL_NVLS_ENABLE", "1")
    nccl.binding()
    assert nccl.os.environ["NCCL_NVLS_ENABLE"] == "1"
