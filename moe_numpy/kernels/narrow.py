"""Floats below float32, float16 and bfloat16, are for storing: kernels compute in float32 and round at the end."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np


def in_float32(*like: int | None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a kernel see narrow arguments as float32; its n-th result is rounded to the type of argument ``like[n]``.

    None leaves a result as it was computed. Without narrow arguments the kernel runs as it is.
    """

    def decorate(kernel: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(kernel)
        def call(*arguments: Any, **settings: Any) -> Any:
            if not any(map(is_narrow, arguments)):
                return kernel(*arguments, **settings)
            results = kernel(*[x.astype(np.float32) if is_narrow(x) else x for x in arguments], **settings)
            several = results if isinstance(results, tuple) else (results,)
            rounded = [r if i is None else r.astype(arguments[i].dtype) for r, i in zip(several, like, strict=True)]
            return tuple(rounded) if isinstance(results, tuple) else rounded[0]

        return call

    return decorate


def is_narrow(x: Any) -> bool:
    """Whether x is an array of floats below float32; bfloat16, of the package ml_dtypes, is of kind "V" to NumPy."""
    return isinstance(x, np.ndarray) and x.dtype.itemsize < 4 and x.dtype.kind in "fV"
