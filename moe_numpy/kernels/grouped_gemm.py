"""All experts' products in one launch on a Hopper GPU (``grouped_gemm.cu``): how that is compiled and started.

Matrices are bfloat16. Rows of 16 bytes and more are fetched by the copy engine, which asks for widths that are
multiples of 8 entries.
"""

import ctypes
import hashlib
import os
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import cupy as cp
import numpy as np
from cupy_backends.cuda.libs import nvrtc

_SHARED = 232_448  # bytes that a block can have
_MOST_EXPERTS = 1023  # whose bounds fit in the rest
_BOX = 16 * 128
_SLAB = 64


def fits(by_expert: Any, *rows: Any) -> bool:
    """Whether arrays [E, ., .] and [N, .] can be multiplied here: bfloat16, aligned, not empty, on a Hopper GPU."""
    if by_expert.itemsize != 2 or not _is_hopper() or len(by_expert) > _MOST_EXPERTS:
        return False
    return all(x.size and x.shape[-1] % 8 == 0 and x.data.ptr % 16 == 0 for x in (by_expert, *rows))


def rows_by_matrices(y: Any, x: Any, weight: Any, offsets: Any, *, across: bool) -> None:
    """y[n] = weight[e] x[n], or weight[e]ᵀ x[n] if ``across``, for every row n of expert e."""
    num_experts, width, depth = len(weight), y.shape[1], x.shape[1]
    bm = 64 if len(x) <= 64 * num_experts else 128
    bn = 256 if width > 128 or bm == 64 else 128
    maps = _map(x[None], _SLAB, bm), _map(weight, _SLAB, _SLAB if across else bn)
    _launch((False, across, bm, bn), maps, y, offsets, num_experts, len(x), 0, width, depth)


def sums_of_outer_products(y: Any, a: Any, b: Any, offsets: Any) -> None:
    """y[e] = Σ a[n] b[n]ᵀ over the rows n of expert e."""
    num_experts, height, width = y.shape
    bm, bn = 128, 256 if width > 128 else 128
    maps = _map(a[None], _SLAB, _SLAB), _map(b[None], _SLAB, _SLAB)
    _launch((True, False, bm, bn), maps, y, offsets, num_experts, len(a), height, width, 0)


def _launch(
    kind: tuple[bool, bool, int, int], maps: tuple[Any, ...], y: Any, offsets: Any, num_experts: int, *sizes: int
) -> None:
    function, shared = _function(*kind)
    shared += 8 * (num_experts + 2)
    numbers = (np.int32(num_experts), *map(np.int32, sizes))
    function((_processors(),), (384,), (*maps, y, offsets, *numbers), shared_mem=shared)


@cache
def _processors() -> int:
    return int(cp.cuda.Device().attributes["MultiProcessorCount"])


@cache
def _is_hopper() -> bool:
    return str(cp.cuda.Device().compute_capability) == "90"


@cache
def _function(depth_is_rows: bool, b_across: bool, bm: int, bn: int) -> tuple[Any, int]:
    """The compiled kernel, and the bytes of shared memory that it needs besides the bounds."""
    stage = (bm + bn) * 128
    width = bn // 2 if bm == 64 else bn
    fixed = 1024 + 8 * _BOX
    stages = (_SHARED - 8 * (_MOST_EXPERTS + 2) - fixed) // (stage + 16)
    count = width // 2  # accumulators of a thread
    macros = {
        "DEPTH_IS_ROWS": int(depth_is_rows),
        "B_ACROSS": int(b_across),
        "BM": bm,
        "BN": bn,
        "STAGES": stages,
        "WIDTH_TEXT": f'"{width}"',
        "ACCUMULATORS": '"' + ", ".join(f"%{i}" for i in range(count)) + '"',
        "OPERANDS": ", ".join(f'"+f"(d[{i}])' for i in range(count)),
        "INPUTS": f'"%{count}, %{count + 1}"',
        "FLAG_A": f'"{count + 2}"',
        "FLAG_B": f'"{count + 3}"',
    }
    source = "".join(f"#define {name} {value}\n" for name, value in macros.items())
    source += Path(__file__).with_name("grouped_gemm.cu").read_text()
    function = cp.RawModule(path=str(_compiled(source))).get_function("multiply")
    function.max_dynamic_shared_size_bytes = _SHARED
    return function, stages * (stage + 16) + fixed


def _compiled(source: str) -> Path:
    """The machine code of a source, from CuPy's folder of compiled kernels if it is there."""
    options = "-arch=sm_90a", "--std=c++17"  # CuPy itself would compile for sm_90, without these instructions
    name = hashlib.sha256(repr((source, options, nvrtc.getVersion())).encode()).hexdigest()
    folder = Path(os.environ.get("CUPY_CACHE_DIR", "~/.cupy/kernel_cache")).expanduser()
    path = folder / f"moe_numpy_{name}.cubin"
    if not path.exists():
        program = nvrtc.createProgram(source, "grouped_gemm.cu", (), ())
        try:
            nvrtc.compileProgram(program, options)
            code = nvrtc.getCUBIN(program)
        except nvrtc.NVRTCError as error:
            raise RuntimeError(f"{error}:\n{nvrtc.getProgramLog(program)}") from error
        finally:
            nvrtc.destroyProgram(program)
        folder.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(f".{os.getpid()}")
        half.write_bytes(code)
        half.replace(path)
    return path


@cache
def _encode() -> Any:
    return ctypes.CDLL("libcuda.so.1").cuTensorMapEncodeTiled


@lru_cache(maxsize=4096)
def _encoded(pointer: int, dims: tuple[int, int, int], box_width: int, box_height: int) -> Any:
    """A descriptor of the array [dims] for the copy engine, which fetches boxes of it."""
    memory = np.zeros(192, np.uint8)
    start = -memory.ctypes.data % 64
    width, height, depth = dims[::-1]
    u64, u32 = ctypes.c_uint64, ctypes.c_uint32
    error = _encode()(
        ctypes.c_void_p(memory.ctypes.data + start), 9, 3, ctypes.c_void_p(pointer),  # 9: bfloat16, 3 axes
        (u64 * 3)(width, height, depth), (u64 * 2)(2 * width, 2 * width * height),
        (u32 * 3)(box_width, box_height, 1), (u32 * 3)(1, 1, 1), 0, 3, 2, 0,  # swizzled by 128 bytes, L2 in 128
    )  # fmt: skip
    if error:
        raise RuntimeError(f"cuTensorMapEncodeTiled failed with error {error} for an array of shape {dims}")
    return memory[start : start + 128].view("V128")


def _map(x: Any, box_width: int, box_height: int) -> Any:
    return _encoded(x.data.ptr, x.shape, box_width, box_height)
