"""A function of arrays on a GPU, recorded once as a CUDA graph and replayed with new data."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import cupy as cp

R = TypeVar("R")


class NotRecordable(Exception):
    """The function does something that a graph cannot repeat; the message says what."""


class CudaGraph(Generic[R]):
    """``graph(*inputs)`` is ``function(*inputs)``: first launch by launch, recorded at the second call, then replayed.

    A replay costs the host one launch instead of hundreds. The function must do the same work at every call: shapes
    follow from shapes, nothing comes to the host, and random numbers follow from the inputs. It sees copies of the
    inputs, always in the same memory. What it returns, and every array it leaves in an attribute, is overwritten by the
    next call.

    Args:
        function: of CuPy arrays, whose shapes and types must be the same at every call.
    """

    def __init__(self, function: Callable[..., R]):
        self.function = function
        self._stream = cp.cuda.Stream(non_blocking=True)  # the legacy stream cannot be captured
        self._pool = cp.cuda.MemoryPool()  # nobody else may use the memory of intermediate results between replays
        self._inputs: list[Any] | None = None
        self._graph: Any = None
        self._result: R

    def __call__(self, *inputs: Any) -> R:
        """The result.

        Raises:
            NotRecordable: at the second call.
        """
        current = cp.cuda.get_current_stream()
        self._stream.wait_event(current.record())
        with self._stream, cp.cuda.using_allocator(self._pool.malloc):
            if self._inputs is None:
                self._inputs = [x.copy() for x in inputs]
                self._result = self.function(*self._inputs)
            else:
                for mine, given in zip(self._inputs, inputs, strict=True):
                    mine[...] = given
                if self._graph is None:
                    self._record(self._inputs)
                self._graph.launch()
        current.wait_event(self._stream.record())
        return self._result

    def _record(self, inputs: list[Any]) -> None:
        obstacle: Exception | None = None
        self._stream.begin_capture()
        try:
            self._result = self.function(*inputs)
        except Exception as error:
            obstacle = error
        try:
            self._graph = self._stream.end_capture()
        except Exception as error:
            obstacle = obstacle or error
        if obstacle is not None:
            self._graph = None
            raise NotRecordable(str(obstacle)) from obstacle
