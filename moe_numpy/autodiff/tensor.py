"""Tensor: an array, its gradient, and the Function that made it."""

import operator
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from array_api_compat import array_namespace

from . import graph
from .arrays import is_float, is_plain, library_of, plain_numbers, to_host


class Tensor:
    """An array that knows how it was computed.

    Args:
        data: an array, kept without a copy unless its bytes are swapped; or a number or nested list of numbers
            (floats become float32).
        requires_grad: whether ``backward()`` fills ``.grad``; floating point only.
        name: shown in errors and reports.

    Attributes:
        data: the array itself, from NumPy or CuPy.
        function: the :class:`Function` whose output this is; None for a leaf.

    Arithmetic, indexing, reductions and shape methods are attached by ``moe_numpy.ops.operators``. Comparisons have no
    derivative: they give arrays of booleans, entry by entry, as NumPy's do.
    """

    __slots__ = (
        "__weakref__",
        "_grad",
        "data",
        "function",
        "name",
        "no_graph_because",
        "output_index",
        "requires_grad",
    )
    __array_ufunc__ = None  # so that `array + tensor` calls Tensor.__radd__
    __hash__ = object.__hash__

    def __init__(self, data: Any, requires_grad: bool = False, name: str | None = None):
        library = library_of(data)
        if isinstance(data, Tensor):
            raise TypeError("Tensor needs an array or numbers, got a Tensor; use its .data, or .detach()")
        if library is None:
            data = as_array(data)
        elif library == "numpy" and not is_plain(data):
            data = plain_numbers(data, "Tensor")
        if requires_grad and not is_float(data.dtype):
            raise TypeError(f"requires_grad needs floating-point data, got dtype {data.dtype}")
        self.data = data
        self._grad: Any = None
        self.requires_grad = requires_grad
        self.name = name
        self.function: Any = None
        self.output_index = 0
        self.no_graph_because: object = None

    @property
    def grad(self) -> Any:
        """After ``backward()``, an array like ``data``; on leaves only.

        It may share memory with other gradients: replace it, never write into it.
        """
        if self._grad is None and self.function is not None:
            warnings.warn(
                f"only leaves keep .grad; this Tensor was made by {self.function.name} from others", stacklevel=2
            )
        return self._grad

    @grad.setter
    def grad(self, gradient: Any) -> None:
        self._grad = gradient

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
        """The only entry, as a Python number. ValueError if there is none, or several."""
        if self.size != 1:
            raise ValueError(f"one number is needed, this Tensor has shape {self.shape}")
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
        def __abs__(self) -> "Tensor": ...
        def __pow__(self, exponent: float) -> "Tensor": ...
        def __getitem__(self, index: Any) -> "Tensor": ...
        def exp(self) -> "Tensor": ...
        def log(self) -> "Tensor": ...
        def sqrt(self) -> "Tensor": ...
        def sum(self, axis: Any = None, keepdims: bool = False) -> "Tensor": ...
        def mean(self, axis: Any = None, keepdims: bool = False) -> "Tensor": ...
        def max(self, axis: Any = None, keepdims: bool = False) -> "Tensor": ...
        def min(self, axis: Any = None, keepdims: bool = False) -> "Tensor": ...
        def var(self, axis: Any = None, *, ddof: int = 0, keepdims: bool = False) -> "Tensor": ...
        def std(self, axis: Any = None, *, ddof: int = 0, keepdims: bool = False) -> "Tensor": ...
        def reshape(self, *shape: Any) -> "Tensor": ...
        def transpose(self, *axes: Any) -> "Tensor": ...

        @property
        def T(self) -> "Tensor": ...

    def __repr__(self) -> str:
        label = f", name={self.name!r}" if self.name else ""
        made_by = f", made by {self.function.name}" if self.function else ""
        wants = ", requires_grad=True" if self.requires_grad and not self.function else ""
        return f"Tensor({np.array2string(to_host(self.data), precision=4, threshold=20)}{label}{wants}{made_by})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator["Tensor"]:
        if self.ndim == 0:
            raise TypeError("a Tensor without axes has nothing to iterate over")
        return (self[i] for i in range(len(self)))

    def __contains__(self, value: Any) -> bool:
        return bool((self == value).any())

    def __eq__(self, other: object) -> Any:
        return self._compare(operator.eq, other)

    def __ne__(self, other: object) -> Any:
        return self._compare(operator.ne, other)

    def __lt__(self, other: object) -> Any:
        return self._compare(operator.lt, other)

    def __le__(self, other: object) -> Any:
        return self._compare(operator.le, other)

    def __gt__(self, other: object) -> Any:
        return self._compare(operator.gt, other)

    def __ge__(self, other: object) -> Any:
        return self._compare(operator.ge, other)

    def _compare(self, compare: Callable[[Any, Any], Any], other: Any) -> Any:
        if not is_operand(other):
            raise TypeError(f"a Tensor is compared with numbers and arrays, entry by entry, not with {other!r:.60}")
        return compare(self.data, other.data if isinstance(other, Tensor) else other)

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise TypeError("a Tensor cannot be changed in place; build a new one, or write to .data of a leaf")

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(f"the truth value of a Tensor of shape {self.shape} is ambiguous; compare its entries")
        return bool(self.item())

    def __array_function__(self, function: Any, *_: Any) -> NoReturn:
        raise TypeError(
            f"numpy.{function.__name__} takes no Tensors; use their methods, moe_numpy.ops, or .data outside the graph"
        )

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a Tensor is not converted to an array implicitly; use .data, which leaves the graph")


def is_operand(x: Any) -> bool:
    """Whether x can stand beside a Tensor in an expression: a Tensor, an array, a number or a list of numbers."""
    return isinstance(x, Tensor | int | float | list | tuple | np.generic) or library_of(x) is not None


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
