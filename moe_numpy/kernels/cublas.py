"""cuBLAS, called directly: CuPy refuses to call it while a CUDA graph is captured."""

import ctypes
from ctypes import c_int, c_longlong, c_void_p
from functools import cache, lru_cache
from typing import Any

import cupy as cp
from cupy_backends.cuda.libs import cublas as _loads_the_library  # noqa: F401

_WORKSPACE = 32 << 20  # bytes, as NVIDIA advises for Hopper
_SIZES = [c_void_p, c_int, c_int, c_int, c_int, c_int, c_void_p]  # handle, two transpositions, m, n, k, alpha
_MATRIX = [c_void_p, c_int, c_int]  # address, type, step
_STACK = [*_MATRIX, c_longlong]  # and the step to the next
_COMPUTE = [c_int, c_int]  # type of sums, algorithm


def gemm(*arguments: Any) -> None:
    """``cublasGemmEx`` on the current stream, all its arguments but the handle."""
    _check(_functions()[0](_handle(cp.cuda.get_current_stream().ptr)[0], *arguments))


def gemm_of_stacks(*arguments: Any) -> None:
    """``cublasGemmStridedBatchedEx`` on the current stream, all its arguments but the handle."""
    _check(_functions()[1](_handle(cp.cuda.get_current_stream().ptr)[0], *arguments))


@cache
def _library() -> Any:
    return ctypes.CDLL(f"libcublas.so.{cp.cuda.runtime.runtimeGetVersion() // 1000}")


@cache
def _functions() -> tuple[Any, Any]:
    one, stacks = _library().cublasGemmEx, _library().cublasGemmStridedBatchedEx
    one.argtypes = [*_SIZES, *_MATRIX, *_MATRIX, c_void_p, *_MATRIX, *_COMPUTE]
    stacks.argtypes = [*_SIZES, *_STACK, *_STACK, c_void_p, *_STACK, c_int, *_COMPUTE]
    return one, stacks


@lru_cache(maxsize=16)
def _handle(stream: int) -> tuple[Any, Any]:
    """A handle for a stream, with memory of its own, which a captured graph goes on using."""
    library, handle, memory = _library(), c_void_p(), cp.empty(_WORKSPACE, cp.uint8)
    _check(library.cublasCreate_v2(ctypes.byref(handle)))
    _check(library.cublasSetStream_v2(handle, c_void_p(stream)))
    _check(library.cublasSetWorkspace_v2(handle, c_void_p(memory.data.ptr), ctypes.c_size_t(_WORKSPACE)))
    return handle, memory


def _check(status: int) -> None:
    if status:
        raise RuntimeError(f"cuBLAS failed with status {status}")
