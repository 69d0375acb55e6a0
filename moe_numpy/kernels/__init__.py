"""The hot loops behind the ops: one contract, one file for each array library.

``kernels.of(x).top_k(x, 2)`` runs the implementation for x's library:

- ``on_numpy`` is the definition: plain whole-array code that says what each kernel computes.
- ``on_numba`` runs the same on all cores of a CPU: compiled loops, products side by side, workspaces used again. It is
  what NumPy arrays get where numba is installed.
- ``on_cupy`` runs it on a GPU, for arrays of CuPy.

``with kernels.use("numpy"):`` forces the definition; the environment variable ``MOE_NUMPY_KERNELS=numpy`` does so for
a whole process.
"""

import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from . import on_numpy
from .narrow import is_narrow

_forced: ContextVar[ModuleType | None] = ContextVar("forced kernels", default=None)
IMPLEMENTATIONS = ("numpy", "numba")
VARIABLE = "MOE_NUMPY_KERNELS"


def of(*arrays: Any) -> ModuleType:
    """The kernels for the library of these arrays.

    Raises:
        TypeError: an array of a library without kernels, or arrays of two libraries.
    """
    narrow = False
    for x in arrays:
        if not isinstance(x, np.ndarray):
            return _for_gpu(arrays)
        narrow |= is_narrow(x)  # float16 and bfloat16, which numba does not compile
    return on_numpy if narrow else _forced.get() or _for_cpu()


@contextmanager
def use(name: str) -> Iterator[None]:
    """Inside the block, and in this thread, NumPy arrays get the kernels ``on_<name>``: ``"numpy"`` or ``"numba"``.

    Raises:
        ValueError: another name.
        ImportError: numba is asked for and missing.
    """
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"kernels must be one of {', '.join(IMPLEMENTATIONS)}, got {name!r}")
    token = _forced.set(importlib.import_module(f".on_{name}", __name__))
    try:
        yield
    finally:
        _forced.reset(token)


def must_compile() -> bool:
    """Whether loops have to be compiled before the first training step: this machine has never run them."""
    if _for_cpu() is on_numpy:
        return False
    loops = importlib.import_module(".loops", __name__)
    if not hasattr(loops.adamw, "py_func"):  # a plain function with NUMBA_DISABLE_JIT=1
        return False
    folder = compiled_loops_in()
    written = Path(str(loops.__file__)).stat().st_mtime  # what was compiled before that is out of date
    name = f"loops.adamw-*.py{sys.version_info.major}{sys.version_info.minor}*.nbi"
    return folder is None or not any(file.stat().st_mtime >= written for file in folder.glob(name))


def compiled_loops_in() -> Path | None:
    """The folder that keeps what numba has compiled; None where nothing is compiled, or nothing can be kept."""
    loop = importlib.import_module(".loops", __name__).adamw if _for_cpu() is not on_numpy else None
    path = getattr(getattr(loop, "stats", None), "cache_path", None)
    return Path(path) if path else None


def _for_gpu(arrays: tuple[Any, ...]) -> ModuleType:
    for x in arrays:
        if type(x).__module__.partition(".")[0] != "cupy":
            found = f"{type(x).__module__}.{type(x).__name__}"
            raise TypeError(f"no kernels for {found} in this place; expected arrays of numpy, or of cupy, not both")
    return _cupy()


@cache
def _cupy() -> ModuleType:
    """CuPy is imported here, on first use: only who has a GPU has it."""
    return importlib.import_module(".on_cupy", __name__)


@cache
def _for_cpu() -> ModuleType:
    """numba is imported here, on first use: it takes longer than all the rest of ``import moe_numpy``."""
    asked = os.environ.get(VARIABLE)
    chosen = asked or ("numba" if find_spec("numba") else "numpy")
    if chosen not in IMPLEMENTATIONS:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(IMPLEMENTATIONS)}, got {chosen!r}")
    try:
        return importlib.import_module(f".on_{chosen}", __name__)
    except ImportError as error:  # for instance numba that does not know this NumPy
        if asked:
            raise
        warnings.warn(f"numba cannot be imported, so the kernels run as plain NumPy: {error}", stacklevel=3)
        return on_numpy
