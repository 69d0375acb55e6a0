"""Where arrays live: "cpu", or "cuda", an NVIDIA GPU, through CuPy, which is imported on first use."""

import math
from functools import cache
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from .kernels import to_host, uniforms
from .typing import Array, Int

DEVICES = ("cpu", "cuda")
DTYPES = ("float32", "bfloat16")
INSTALL = "python -m pip install 'cupy-cuda13x[ctk]' ml_dtypes"


class DeviceError(ValueError):
    """A device or dtype that is not available here; the message says why and what to do."""


def namespace(device: str) -> Any:
    """The array library of a device, as ``array_namespace`` returns it for its arrays.

    Raises:
        DeviceError: an unknown name, or CuPy is missing or finds no GPU.
    """
    if device == "cpu":
        return array_namespace(np.empty(0))
    if device != "cuda":
        raise DeviceError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    obstacle = why_no_gpu()
    if obstacle:
        raise DeviceError(f"device cuda: {obstacle}")
    from array_api_compat import cupy

    return cupy


def why_no_gpu() -> str | None:
    """Why this machine cannot compute on a GPU; None if it can."""
    try:
        import cupy
    except ImportError as error:
        if error.name == "cupy":
            return f"CuPy is missing; {INSTALL}"
        return f"CuPy cannot be imported: {error.__cause__ or error}"  # its own message is a page long
    except Exception as error:  # built for another NumPy or Python
        return f"CuPy cannot be imported: {error}"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CuPy finds no GPU: {error}"
    return None if count else "CuPy finds no GPU"


def float_type(name: str) -> Any:
    """The dtype of this name.

    Raises:
        DeviceError: an unknown name, or bfloat16 without the package ml_dtypes.
    """
    if name not in DTYPES:
        raise DeviceError(f"dtype must be one of {', '.join(DTYPES)}, got {name!r}")
    if name == "float32":
        return np.dtype(np.float32)
    try:
        import ml_dtypes
    except ImportError as error:
        raise DeviceError(f"bfloat16 needs the package ml_dtypes; {INSTALL}") from error
    return np.dtype(ml_dtypes.bfloat16)


def put(x: Any, device: str) -> Any:
    """x copied to a device, or x itself if it is there. DeviceError as for :func:`namespace`."""
    return to_host(x) if device == "cpu" else namespace(device).asarray(x)


def constant_beside(x: Any, constant: Any) -> Any:
    """An array of NumPy that never changes, in the library and on the device of x; copied there once and kept.

    A copy from the host cannot be part of a recorded CUDA graph, which goes on reading the memory it was recorded with.
    """
    if on_host(x):
        return constant
    return _copied(constant.tobytes(), constant.dtype, constant.shape, array_namespace(x), str(x.device))


@cache
def _copied(content: bytes, dtype: Any, shape: tuple[int, ...], xp: Any, device: str) -> Any:
    return xp.asarray(np.frombuffer(content, dtype).reshape(shape))


def on_host(x: Any) -> bool:
    """Whether an array can be read without waiting for a GPU."""
    return isinstance(x, np.ndarray)


def generator(device: str, seed: Any) -> Any:
    """NumPy's generator, or :class:`DeviceGenerator`; they draw different numbers for the same seed."""
    return np.random.default_rng(seed) if device == "cpu" else DeviceGenerator(put(key_of(seed), device))


def key_of(seed: Any) -> Int[Array, " 2"]:
    """What a :class:`DeviceGenerator` draws from, for a seed as of ``np.random.SeedSequence``: two words of 32 bits."""
    return np.random.SeedSequence(seed).generate_state(2).astype(np.int64)


class DeviceGenerator:
    """The methods of ``np.random.Generator`` that routers use, drawing where the key lies.

    What it draws follows from the key and the number of the draw alone, see :func:`moe_numpy.kernels.uniforms`: in a
    CUDA graph, draws depend on the key that is given to it.

    Args:
        key: an array of :func:`key_of`.
    """

    def __init__(self, key: Int[Array, " 2"]):
        self.key = key
        self._draws = 0
        self._xp = array_namespace(key)

    def random(self, size: Any) -> Any:
        """Uniform in [0, 1), in float64."""
        shape = (size,) if isinstance(size, int) else tuple(size)
        y = uniforms(self.key, self._draws, math.prod(shape))
        self._draws += 1
        return y.reshape(shape)

    def uniform(self, low: float, high: float, size: Any) -> Any:
        """Uniform in [low, high), in float64."""
        return low + (high - low) * self.random(size)

    def standard_normal(self, size: Any) -> Any:
        """N(0, 1), in float64: √(-2 ln(1 - U)) cos(2π V) (Box and Muller 1958)."""
        u, v = self.random(size), self.random(size)
        return self._xp.sqrt(-2 * self._xp.log1p(-u)) * self._xp.cos(2 * math.pi * v)

    def gumbel(self, size: Any) -> Any:
        """-ln(-ln(1 - U)), in float64. U can be 0: -ln 1 then counts as 2⁻⁵⁴."""
        return -self._xp.log(self._xp.maximum(-self._xp.log1p(-self.random(size)), 2.0**-54))

    def permutation(self, n: int) -> Any:
        """0 ... n-1 in random order."""
        return self.random(n).argsort()
