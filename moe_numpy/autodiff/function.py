"""Function: one differentiable operation, its forward above its backward.

A subclass writes two methods that see plain arrays and never a Tensor::

    class Square(Function):
        '''y = x².'''

        def forward(self, x):
            self.save(x)
            return x * x

        def backward(self, grad):
            (x,) = self.saved
            return 2 * x * grad

``Square.apply(t)`` runs it on Tensors and records it as a node of the graph. It also runs by hand, without a
graph: ``op = Square(); y = op.forward(x); dx = op.backward(dy)``.
"""

import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from .arrays import is_finite, is_float, is_plain, library_of, plain_numbers
from .modes import NonFiniteError, modes
from .tensor import Tensor, as_array

_SMALL = 1 << 14  # bytes; a smaller array is its own fingerprint
_SAMPLES = 256  # entries in the fingerprint of a large array of floats


class Edge(NamedTuple):
    """Where the gradient of one input goes, and what it must look like."""

    source: Any  # the Function that made the input, or the leaf Tensor itself
    is_leaf: bool
    output_index: int
    shape: tuple[int, ...]
    dtype: Any
    library: str


class Function:
    """One node of the graph: ``forward(*arrays, **settings)`` and ``backward(*gradients)``.

    ``forward`` returns an array or a tuple of arrays. ``backward`` gets one gradient per output (zeros where
    none arrived, None for an integer output) and returns one gradient, or None, per positional input. Inputs
    are positional, settings keyword-only. The engine undoes broadcasting and type promotion, so ``backward``
    of ``a + b`` may return ``grad, grad`` whatever the shapes of a and b.
    """

    edges: tuple[Edge | None, ...] = ()
    released = False
    outputs: tuple[tuple[tuple[int, ...], Any], ...] = ()  # shape and dtype of each
    _saved: tuple[Any, ...] = ()
    _fingerprints: tuple[bytes | int | None, ...] = ()
    _recording = True

    def forward(self, *arrays: Any, **settings: Any) -> Any:
        """Compute the outputs; keep what backward needs with :meth:`save`."""
        raise NotImplementedError(f"{self.name} has no forward")

    def backward(self, *gradients: Any) -> Any:
        """Turn the gradients of the outputs into gradients of the inputs."""
        raise NotImplementedError(f"{self.name} has no backward")

    @property
    def name(self) -> str:
        """The name that errors and reports use."""
        return type(self).__name__

    def needs_grad(self, i: int) -> bool:
        """Whether the gradient of input i will be used; backward may return None where it is not."""
        return not self.edges or self.edges[i] is not None

    def save(self, *arrays: Any) -> None:
        """Keep arrays, and settings, for backward. Arrays must not change until then."""
        if self._recording:
            self._saved = arrays
            self._fingerprints = tuple([_fingerprint(a) for a in arrays])

    @property
    def saved(self) -> tuple[Any, ...]:
        """What :meth:`save` kept, after checking that it is unchanged."""
        for i, (array, before) in enumerate(zip(self._saved, self._fingerprints, strict=True)):
            if before is not None and _fingerprint(array) != before:
                raise RuntimeError(
                    f"{self.name}: saved array {i} of shape {array.shape} was changed in place between forward "
                    "and backward; write to a copy instead, or change it after backward()"
                )
        return self._saved

    def release(self) -> None:
        """Drop the saved arrays and the edges to the ops below."""
        self.released = True
        self._saved = self._fingerprints = self.edges = ()

    @classmethod
    def compute(cls, *arrays: Any, **settings: Any) -> Any:
        """Forward alone, from arrays to arrays: nothing is recorded or checked."""
        op = _substitutes.get(cls, cls)()
        op._recording = False
        return op.forward(*arrays, **settings)

    @classmethod
    def apply(cls, *inputs: Any, **settings: Any) -> Any:
        """Run forward on Tensors, arrays and numbers; record the op if a gradient can flow through it.

        Returns a Tensor, or a tuple of Tensors where forward returns a tuple. TypeError for inputs on
        different devices.
        """
        op = _substitutes.get(cls, cls)()
        arrays: list[Any] = []
        library = None
        differentiable = False
        for x in inputs:
            if isinstance(x, Tensor):
                differentiable |= x.requires_grad
                x = x.data
            elif isinstance(x, list | tuple):
                x = as_array(x)
            found = library_of(x)
            if found == "numpy" and not is_plain(x):
                x = plain_numbers(x, f"{op.name}: input {len(arrays)}")
            if found != library and found is not None:
                if library is not None:
                    raise TypeError(
                        f"{op.name}: inputs live in {library} and in {found}; move them to one device first"
                    )
                library = found
            elif found is None and not isinstance(x, int | float | np.generic | None):
                raise TypeError(f"{op.name}: input {len(arrays)} must be a Tensor, an array or a number, got {x!r:.60}")
            arrays.append(x)
        if library is None:
            library, arrays = "numpy", [as_array(x) for x in arrays]
        elif library == "numpy":
            arrays = _numbers_as_narrow(arrays)
        record = op._recording = differentiable and modes.record_graph
        if record:
            op.edges = tuple([_edge(x, library) for x in inputs])
        try:
            outputs = op.forward(*arrays, **settings)
        except Exception as error:
            error.add_note(f"in {op.name}.forward({', '.join(map(_describe, arrays))})")
            raise
        as_tuple = outputs if type(outputs) is tuple else (outputs,)
        for y in as_tuple:
            if library_of(y) is None and not isinstance(y, np.generic):
                raise TypeError(f"{op.name}.forward must return an array or a tuple of arrays, got {type(y).__name__}")
        if modes.check_finite:
            _require_finite(op, as_tuple)
        op.outputs = tuple([(y.shape, y.dtype) for y in as_tuple])
        tensors = tuple([_wrap(op, y, i, record) for i, y in enumerate(as_tuple)])
        if differentiable and not record:
            for tensor in tensors:
                tensor.no_graph_because = _NoGraph(op.name, threading.current_thread().name)
        return tensors if type(outputs) is tuple else tensors[0]


_substitutes: dict[type[Function], type[Function]] = {}


@contextmanager
def substitute(original: type[Function], replacement: type[Function]) -> Iterator[None]:
    """Inside the block, ``original.apply`` runs ``replacement``, in every thread.

    To train a model with your own Function::

        with substitute(Softmax, MySoftmax):
            train(...)
    """
    for role, value in (("original", original), ("replacement", replacement)):
        if not (isinstance(value, type) and issubclass(value, Function)):
            raise TypeError(f"substitute: {role} must be a Function class, got {value!r}")
    before = _substitutes.get(original)
    _substitutes[original] = replacement
    try:
        yield
    finally:
        if before is None:
            del _substitutes[original]
        else:
            _substitutes[original] = before


def anything_substituted() -> bool:
    """Whether some Function has a substitute now."""
    return bool(_substitutes)


def implementation_of(original: type[Function]) -> type[Function]:
    """The class that ``original.apply`` runs now: its substitute, or itself."""
    return _substitutes.get(original, original)


class _NoGraph(NamedTuple):
    op: str
    thread: str

    def __str__(self) -> str:
        return f"{self.op} made it inside no_grad() in thread {self.thread!r}"


def _edge(x: Any, library: str | None) -> Edge | None:
    if not isinstance(x, Tensor) or not x.requires_grad:
        return None
    if not is_float(x.data.dtype):
        raise TypeError(
            f"a Tensor with requires_grad holds {x.data.dtype}: its .data was replaced; gradients need floats"
        )
    source = x if x.function is None else x.function
    return Edge(source, x.function is None, x.output_index, x.data.shape, x.data.dtype, library or "")


def _wrap(op: Function, y: Any, index: int, record: bool) -> Tensor:
    tensor = Tensor(y)
    if record and is_float(y.dtype):
        tensor.requires_grad = True
        tensor.function = op
        tensor.output_index = index
    return tensor


def _numbers_as_narrow(inputs: list[Any]) -> list[Any]:
    """Python numbers in the type of the arrays beside them, where NumPy would widen the result: bfloat16 times 0.5."""
    narrow = [x.dtype for x in inputs if isinstance(x, np.ndarray) and x.dtype.kind == "V"]
    if not narrow:
        return inputs
    return [np.asarray(x, narrow[0]) if type(x) in (int, float) else x for x in inputs]


def _fingerprint(array: Any) -> bytes | int | None:
    """What changes when the array is overwritten.

    All of a small array; the checksum of integers and booleans, which users keep and change; evenly spread samples of
    many floats. Changes to single entries or thin slices of those can go unnoticed; overwriting all of them cannot.
    GPU arrays have no fingerprint: reading them would wait for the device.
    """
    if not isinstance(array, np.ndarray):
        return None
    if array.nbytes <= _SMALL:
        return array.tobytes()
    if array.dtype.kind in "iub":
        return zlib.crc32(np.ascontiguousarray(array).data)
    return array.flat[:: array.size // _SAMPLES | 1].tobytes()  # an odd step does not stay in a few columns


def _require_finite(op: Function, outputs: tuple[Any, ...]) -> None:
    for i, y in enumerate(outputs):
        if is_float(y.dtype) and not is_finite(y):
            raise NonFiniteError(op.name, "forward", f"a non-finite value in output {i} of shape {y.shape}")


def _describe(x: Any) -> str:
    return f"{x.dtype}{list(x.shape)}" if hasattr(x, "shape") else repr(x)
