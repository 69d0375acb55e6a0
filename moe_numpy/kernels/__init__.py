"""The hot loops behind the ops: one contract, one file for each array library.

``kernels.of(x).top_k(x, 2)`` runs the implementation for x's library. ``on_numpy`` is the definition: plain
whole-array code that says what each kernel computes.
"""

from types import ModuleType
from typing import Any

import numpy as np

from . import on_numpy


def of(*arrays: Any) -> ModuleType:
    """The kernels for the library of these arrays.

    Raises:
        TypeError: an array of a library without kernels.
    """
    for x in arrays:
        if not isinstance(x, np.ndarray):
            raise TypeError(f"no kernels for {type(x).__module__}.{type(x).__name__}; expected numpy arrays")
    return on_numpy
