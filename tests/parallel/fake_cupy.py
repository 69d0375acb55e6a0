"""What ranks need of CuPy and of its binding of NCCL, on a CPU: memory of NumPy, and sends that meet in one process.

Streams do nothing by themselves: what is done on one is done at once, and noted with the stream that was current.
"""

import ctypes
import threading
import types

import numpy as np


class Pointer:
    def __init__(self, array, offset=0):
        self.array, self.offset = array, offset
        self.ptr = np.asarray(array).ctypes.data + offset

    def __add__(self, offset):
        return Pointer(self.array, self.offset + offset)

    def copy_from_device_async(self, source, size):
        ctypes.memmove(self.ptr, source.ptr, size)


class FakeArray(np.ndarray):
    """On the GPU, as far as anybody can tell."""

    @property
    def data(self):
        return Pointer(self)

    def get(self):
        return np.array(self, subok=False)


class Stream:
    _current = threading.local()

    def __init__(self, non_blocking=False, ptr=7):
        self.ptr, self.waited_for = ptr, []

    def __enter__(self):
        self.before, Stream._current.stream = Stream.current(), self

    def __exit__(self, *_):
        Stream._current.stream = self.before

    def record(self):
        return f"event of {self.ptr}"

    def wait_event(self, event):
        self.waited_for.append(event)

    @classmethod
    def current(cls):
        if not hasattr(cls._current, "stream"):
            cls._current.stream = Stream(ptr=0)
        return cls._current.stream


class Wire:
    """Where the sends of one rank meet the receives of another, in their order."""

    def __init__(self):
        self.sent, self.change, self.log = {}, threading.Condition(), []


class Ends:
    def __init__(self, wire, rank):
        self.wire, self.rank = wire, rank

    def send(self, pointer, count, datatype, peer, stream):
        content = ctypes.string_at(pointer, count)
        with self.wire.change:
            self.wire.log.append((self.rank, "send", peer, count, pointer % 16, stream))
            self.wire.sent.setdefault((self.rank, peer), []).append(content)
            self.wire.change.notify_all()

    def recv(self, pointer, count, datatype, peer, stream):
        arrivals = self.wire.sent.setdefault((peer, self.rank), [])
        with self.wire.change:
            self.wire.log.append((self.rank, "recv", peer, count, pointer % 16, stream))
            if not self.wire.change.wait_for(lambda: arrivals, timeout=10):
                raise TimeoutError
            content = arrivals.pop(0)
        assert len(content) == count
        ctypes.memmove(pointer, content, count)


class Group:
    """Sends and receives of a thread, which happen together at the end: sends first, as nobody may wait inside."""

    def __init__(self):
        self.of_thread = threading.local()

    def start(self):
        self.of_thread.calls = []

    def end(self):
        for call in sorted(self.of_thread.calls, key=lambda call: call[0] != "send"):
            name, ends, *arguments = call
            getattr(Ends, name)(ends, *arguments)


def modules(wire, num_gpus):
    """``cupy``, ``cupy.cuda`` and ``cupy.cuda.nccl``."""
    group = Group()

    class Communicator(Ends):
        def __init__(self, size, unique_id, rank):
            super().__init__(wire, rank)

        def send(self, *arguments):
            group.of_thread.calls.append(("send", self, *arguments))

        def recv(self, *arguments):
            group.of_thread.calls.append(("recv", self, *arguments))

    used = []
    nccl = types.SimpleNamespace(
        available=True,
        NCCL_CHAR=0,
        NcclCommunicator=Communicator,
        groupStart=group.start,
        groupEnd=group.end,
        get_unique_id=lambda: b"id",
    )
    cuda = types.SimpleNamespace(
        nccl=nccl,
        Stream=Stream,
        get_current_stream=Stream.current,
        Device=lambda number: types.SimpleNamespace(use=lambda: used.append(number)),
        used=used,
        runtime=types.SimpleNamespace(getDeviceCount=lambda: num_gpus),
    )
    cupy = types.SimpleNamespace(
        cuda=cuda,
        empty=lambda shape, dtype: np.empty(shape, dtype).view(FakeArray),
        asarray=lambda x: np.array(x).view(FakeArray),
        ascontiguousarray=lambda x: np.ascontiguousarray(x).view(FakeArray),
    )
    return {"cupy": cupy, "cupy.cuda": cuda, "cupy.cuda.nccl": nccl}
