"""@kernel: a plain NumPy function that defines a hot loop, and the name to call.

    @kernel
    def softmax(x):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

``softmax(x)`` runs the loop of that name for the library of x, from ``on_numba`` for NumPy or ``on_cupy`` for CuPy, and
the function itself where there is neither. ``softmax.definition`` is always the function itself.

Floats narrower than float32, such as bfloat16, are for storing: on a CPU they are computed with as float32.
"""

import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial, update_wrapper
from importlib.util import find_spec
from itertools import chain
from types import ModuleType
from typing import Any, Generic, ParamSpec, TypeVar, overload

import numpy as np

from ..blocks import Block, Blocks

P = ParamSpec("P")
R = TypeVar("R")

CPU_IMPLEMENTATIONS = ("numpy", "numba")
GPU_IMPLEMENTATIONS = {"cupy": "on_cupy"}  # library to module
VARIABLE = "MOE_NUMPY_KERNELS"

registry: dict[str, "Kernel[..., Any]"] = {}
_COMPILED = frozenset(map(np.dtype, "?bhilqBHILQfd"))  # types that the loops know
_substitutes: dict[str, Callable[..., Any]] = {}
_forced = Blocks()
_libraries: dict[type, str | None] = {}


class Kernel(Generic[P, R]):
    """A definition that can be called: it runs the fastest implementation for the library of its arguments."""

    def __init__(self, definition: Callable[P, R], wide: tuple[int, ...], computes: bool):
        self.definition, self.wide, self.computes = definition, wide, computes
        self.name = definition.__name__
        update_wrapper(self, definition)

    def __call__(self, *arguments: P.args, **settings: P.kwargs) -> R:
        result: R = implementation(self.name, arguments)(*arguments, **settings)
        return result


@overload
def kernel(definition: Callable[P, R], /) -> Kernel[P, R]: ...
@overload
def kernel(*, wide: tuple[int, ...] = (), computes: bool = True) -> Callable[[Callable[P, R]], Kernel[P, R]]: ...
def kernel(definition: Any = None, /, *, wide: tuple[int, ...] = (), computes: bool = True) -> Any:
    """Make a function the definition of the kernel of its name: ``@kernel``, or ``@kernel(wide=(1,))``.

    Args:
        definition: takes arrays, or lists of arrays, by position and other settings in any way.
        wide: which results, by position, stay float32 when narrower floats come in.
        computes: False for a definition that only moves entries; narrow floats stay as they are.

    Raises:
        ValueError: another module defines a kernel of this name.
    """
    if definition is None:
        return partial(kernel, wide=wide, computes=computes)
    name = definition.__name__
    if name in registry and registry[name].__module__ != definition.__module__:
        where = f"in {registry[name].__module__} and in {definition.__module__}"
        raise ValueError(f"the kernel {name} is defined twice, {where}")
    registry[name] = Kernel(definition, wide, computes)
    return registry[name]


def implementation(name: str, arguments: tuple[Any, ...]) -> Callable[..., Any]:
    """What the kernel of this name runs for these arguments. TypeError as in :func:`library_and_narrow`."""
    kernel = registry[name]
    library, narrow = library_and_narrow(kernel, arguments)
    if name in _substitutes:
        return _substitutes[name]
    if library in GPU_IMPLEMENTATIONS:
        return _from_module(GPU_IMPLEMENTATIONS[library], name)
    if narrow:
        return partial(_in_float32, kernel) if kernel.computes else kernel.definition
    return kernel.definition if in_use() == "numpy" else _from_module("on_numba", name)


def library_and_narrow(kernel: Kernel[..., Any], arguments: tuple[Any, ...]) -> tuple[str | None, bool]:
    """The library of the arrays among the arguments, and whether one of NumPy's has a type without compiled loops.

    Those are floats below float32 and, where a kernel only moves entries, also wide and byte-swapped numbers.

    Raises:
        TypeError: an array of a library without kernels, arrays of two libraries, or a type that no loop knows.
    """
    library, narrow = None, False
    for x in chain.from_iterable([x if type(x) is list else (x,) for x in arguments]):
        found = library_of(x)
        if found is None:
            continue
        if found != library:
            if library is not None or not (found == "numpy" or found in GPU_IMPLEMENTATIONS):
                kind = f"{type(x).__module__}.{type(x).__name__}"
                raise TypeError(f"no kernels for {kind} in this place; expected arrays of numpy, or of cupy, not both")
            library = found
        if found != "numpy" or x.dtype in _COMPILED:
            continue
        odd = x.dtype.itemsize > 8 or not x.dtype.isnative
        if odd and kernel.computes:
            raise TypeError(
                f"{kernel.name}: expected numbers of at most 64 bits in the byte order of this machine, "
                f"got {x.dtype.str} ({x.dtype}); convert them with .astype"
            )
        narrow = narrow or odd or is_narrow(x)
    return library, narrow


def library_of(x: Any) -> str | None:
    """``"numpy"``, ``"cupy"`` ... for an array; None for anything else, and for scalars, which fit any library."""
    kind = type(x)
    if kind not in _libraries:
        is_array = hasattr(kind, "shape") and hasattr(kind, "dtype") and not isinstance(x, np.generic)
        _libraries[kind] = kind.__module__.partition(".")[0] if is_array else None
        if isinstance(x, np.ndarray):
            _libraries[kind] = "numpy"  # subclasses too: memory-mapped weights are numpy arrays
    return _libraries[kind]


def use(name: str) -> Block:
    """Inside the block, and in this thread, NumPy arrays get the definitions, ``"numpy"``, or the loops of ``"numba"``.

    Raises:
        ValueError: another name.
        ImportError: numba is asked for and cannot be imported.
    """
    if name not in CPU_IMPLEMENTATIONS:
        raise ValueError(f"kernels must be one of {', '.join(CPU_IMPLEMENTATIONS)}, got {name!r}")
    if name == "numba":
        _module("on_numba")
    return Block(_forced, name)


@contextmanager
def substitute(name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Inside the block the kernel of this name runs ``function``, whatever its arrays, in every thread."""
    before = _substitutes.get(name)
    _substitutes[name] = function
    try:
        yield
    finally:
        if before is None:
            del _substitutes[name]
        else:
            _substitutes[name] = before


def anything_substituted() -> bool:
    """Whether some kernel has a substitute now."""
    return bool(_substitutes)


def in_use() -> str:
    """What NumPy arrays get in this thread: ``"numba"`` or ``"numpy"``."""
    forced = _forced.innermost()
    return forced.value if forced is not None else chosen_for_cpu()


def is_narrow(x: Any) -> bool:
    """Whether x is an array of floats below float32; bfloat16, of the package ml_dtypes, is of kind "V" to NumPy."""
    return isinstance(x, np.ndarray) and x.dtype.itemsize < 4 and x.dtype.kind in "fV"


def _in_float32(kernel: Kernel[..., Any], *arguments: Any, **settings: Any) -> Any:
    """The definition on wider copies; its floating-point results are rounded to the narrow type, unless ``wide``.

    The first array of floats decides: wide rows stay wide beside narrow weights, as those are stored.
    """
    results = kernel.definition(*[x.astype(np.float32) if is_narrow(x) else x for x in arguments], **settings)
    floats = [x.dtype for x in arguments if is_narrow(x) or (isinstance(x, np.ndarray) and x.dtype.kind == "f")]
    if not floats or floats[0].itemsize >= 4:  # none: they are in lists, which are changed in place
        return results
    several = results if isinstance(results, tuple) else (results,)
    kept = [i in kernel.wide or y is None or y.dtype.kind != "f" for i, y in enumerate(several)]
    rounded = tuple(y if keep else y.astype(floats[0]) for y, keep in zip(several, kept, strict=True))
    return rounded if isinstance(results, tuple) else rounded[0]


def _from_module(module: str, name: str) -> Callable[..., Any]:
    return getattr(_module(module), name, registry[name].definition)


@cache
def _module(name: str) -> ModuleType:
    """A module beside this one, imported on first use: numba and CuPy are slow to import."""
    return importlib.import_module(f".{name}", __package__)


def asked_for_cpu() -> str | None:
    """What the environment variable MOE_NUMPY_KERNELS names, if anything. ValueError for an unknown name."""
    asked = os.environ.get(VARIABLE) or None
    if asked is not None and asked not in CPU_IMPLEMENTATIONS:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(CPU_IMPLEMENTATIONS)}, got {asked!r}")
    return asked


@cache
def chosen_for_cpu() -> str:
    """What NumPy arrays get where nothing is forced: numba's loops if numba is installed."""
    asked = asked_for_cpu()
    chosen = asked or ("numba" if find_spec("numba") else "numpy")
    if chosen == "numba":
        try:
            _module("on_numba")
        except ImportError as error:  # for instance a numba that does not support this NumPy
            if asked:
                raise
            warnings.warn(f"numba cannot be imported, so the kernels run as plain NumPy: {error}", stacklevel=3)
            return "numpy"
    return chosen
