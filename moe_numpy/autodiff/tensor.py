"""Tensor: an array, its gradient, and the Function that made it."""

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from array_api_compat import array_namespace

from . import graph
from .arrays import is_float, library_of, to_host


class Tensor:
    """An array that knows how it was computed.

    Args:
        data: an array, kept without a copy unless its bytes are swapped; or a number or nested list of numbers
            (floats become float32).
        requires_grad: whether ``backward()`` fills ``.grad``; floating point only.
        name: shown in errors and reports.

    Attributes:
        data: the array itself, from NumPy or CuPy.
        grad: after ``backward()``, an array like ``data``; on leaves only. It may share memory with other
            gradients: replace it, never write into it.
        function: the :class:`Function` whose output this is; None for a leaf.

    Arithmetic, indexing, reductions and shape methods are attached by ``moe_numpy.ops.operators``.
    """

    __slots__ = (
        "__weakref__",
        "data",
        "function",
        "grad",
        "name",
        "no_graph_because",
        "output_index",
        "requires_grad",
    )
    __array_ufunc__ = None  # so that `array + tensor` calls Tensor.__radd__
    __hash__ = object.__hash__

    def __init__(self, data: Any, requires_grad: bool = False, name: str | None = None):
        library = library_of(data)
        if library is None:
            data = as_array(data)
        elif library == "numpy" and not (data.dtype.kind in "fiub" and data.dtype.isnative and type(data) is np.ndarray):
            data = _plain(data)
        if requires_grad and not is_float(data.dtype):
            raise TypeError(f"requires_grad needs floating-point data, got dtype {data.dtype}")
        self.data = data
        self.grad: Any = None
        self.requires_grad = requires_grad
        self.name = name
        self.function: Any = None
        self.output_index = 0
        self.no_graph_because: object = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return self.data.shape

    @property
    def dtype(self) -> Any:
        """The type of the entries."""
        return self.data.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.data.ndim

    @property
    def size(self) -> int:
        """The number of entries."""
        return self.data.size

    def item(self) -> float:
        """The only entry, as a Python number."""
        return to_host(self.data).item()

    def detach(self) -> "Tensor":
        """The same array outside the graph: a constant for every derivative (sg[x] in formulas)."""
        return Tensor(self.data, name=self.name)

    def backward(self, gradient: Any = None, *, retain_graph: bool = False) -> None:
        """Add d(self)/d(leaf) to the ``.grad`` of every leaf, weighted with ``gradient``.

        Args:
            gradient: dL/d(self), an array of the same shape and dtype; 1 if left out, which needs a single entry.
            retain_graph: keep the graph and what it saved, so that backward can run again.

        Raises:
            RuntimeError: there is no graph, it was released by an earlier walk, a saved array was changed in
                place, or an op returned gradients that break its contract. The message names the op.
        """
        if not self.requires_grad:
            raise RuntimeError(f"backward() on a tensor without a graph: {self._why_no_graph()}")
        if gradient is None:
            if self.size != 1:
                raise RuntimeError(
                    f"backward() of shape {self.shape} needs a gradient; the default is for a single entry"
                )
            gradient = array_namespace(self.data).ones_like(self.data)
        elif isinstance(gradient, Tensor):
            gradient = gradient.data
        if getattr(gradient, "shape", None) != self.shape or gradient.dtype != self.dtype:
            raise ValueError(
                f"gradient must be a {self.dtype} array of shape {self.shape}, got "
                f"{getattr(gradient, 'dtype', type(gradient).__name__)} of shape {getattr(gradient, 'shape', None)}"
            )
        graph.backward(self, gradient, retain_graph)

    def _why_no_graph(self) -> str:
        if self.no_graph_because is not None:
            return f"{self.no_graph_because}; run the forward pass outside it"
        return "nothing that it was computed from has requires_grad=True"

    if TYPE_CHECKING:  # attached by moe_numpy.ops.operators

        def __add__(self, other: Any) -> "Tensor": ...
        def __radd__(self, other: Any) -> "Tensor": ...
        def __sub__(self, other: Any) -> "Tensor": ...
        def __rsub__(self, other: Any) -> "Tensor": ...
        def __mul__(self, other: Any) -> "Tensor": ...
        def __rmul__(self, other: Any) -> "Tensor": ...
        def __truediv__(self, other: Any) -> "Tensor": ...
        def __rtruediv__(self, other: Any) -> "Tensor": ...
        def __matmul__(self, other: Any) -> "Tensor": ...
        def __rmatmul__(self, other: Any) -> "Tensor": ...
        def __neg__(self) -> "Tensor": ...
        def __pow__(self, exponent: float) -> "Tensor": ...
        def __getitem__(self, index: Any) -> "Tensor": ...
        def exp(self) -> "Tensor": ...
        def log(self) -> "Tensor": ...
        def sqrt(self) -> "Tensor": ...
        def sum(self, axis: Any = None, keepdims: bool = False) -> "Tensor": ...
        def mean(self, axis: Any = None, keepdims: bool = False) -> "Tensor": ...
        def max(self, axis: int | None = None, keepdims: bool = False) -> "Tensor": ...
        def reshape(self, *shape: Any) -> "Tensor": ...
        def transpose(self, *axes: Any) -> "Tensor": ...

        @property
        def T(self) -> "Tensor": ...

    def __repr__(self) -> str:
        label = f", name={self.name!r}" if self.name else ""
        made_by = f", made by {self.function.name}" if self.function else ""
        wants = ", requires_grad=True" if self.requires_grad and not self.function else ""
        return f"Tensor({np.array2string(to_host(self.data), precision=4, threshold=20)}{label}{wants}{made_by})"

    def __len__(self) -> int:
        return len(self.data)

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise TypeError("a Tensor cannot be changed in place; build a new one, or write to .data of a leaf")

    def __bool__(self) -> bool:
        return bool(to_host(self.data))

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a Tensor is not converted to an array implicitly; use .data, which leaves the graph")


def as_array(data: Any) -> Any:
    """An array from a number or a nested list of numbers; floats become float32."""
    if isinstance(data, np.generic):
        return np.asarray(data)
    try:
        array = np.asarray(data)
    except ValueError:  # lists of different lengths
        raise TypeError(f"Tensor needs numbers in rows of one length, got {data!r:.60}") from None
    if array.dtype.kind not in "fiub":
        raise TypeError(f"Tensor needs numbers, got {type(data).__name__} of dtype {array.dtype}")
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _plain(data: Any) -> Any:
    """The array itself, without what ``np.matrix`` adds, in the byte order of this machine."""
    if isinstance(data, np.ma.MaskedArray):
        raise TypeError("Tensor needs a plain array, got a masked one; use .filled() and pass the mask to the op")
    if data.dtype.kind not in "fiub" and not is_float(data.dtype):
        raise TypeError(f"Tensor needs numbers, got an array of dtype {data.dtype}")
    data = data.view(np.ndarray) if isinstance(data, np.matrix) else data
    return data if data.dtype.isnative else data.astype(data.dtype.newbyteorder("="))
