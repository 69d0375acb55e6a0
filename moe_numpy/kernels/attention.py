"""Causal attention on the tensor cores (``attention.cu``), in bfloat16: how its loops are compiled and started."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import cupy as cp
import numpy as np

_TILE = 128  # rows that a block keeps
_WIDEST = 128
_SHARED = 140_800  # bytes that a block needs for that width
_CACHED = 2**24  # bytes that may be read over and over at the same time


def fits(q: Any, k: Any, v: Any, length: int, scale: float) -> bool:
    """Whether the loops can do it: bfloat16, one width, not empty, and a GPU with an A100's shared memory or more."""
    d = q.shape[3]
    return (
        q.dtype.name == "bfloat16"
        and 0 < d <= _WIDEST
        and d % 16 == 0
        and v.shape == k.shape
        and 0 < length <= k.shape[2]
        and 0 < scale < math.inf
        and q.size > 0
        and max(q.shape[2], k.shape[2]) * d < 2**31
        and _shared_memory() >= _SHARED
    )


def forward(q: Any, k: Any, v: Any, length: int, scale: float) -> tuple[Any, Any]:
    """The output, and the log-sum-exp of each row of scores in float32."""
    q, k, v = map(_dense, (q, k, v))
    o, lse = cp.empty(q.shape, q.dtype), cp.empty((*q.shape[:3], 1), np.float32)
    _launch("forward", _tiles(q, length), k, (q, k, v, o, lse), q, k, length, scale)
    return o, lse


def gradient(grad: Any, q: Any, k: Any, v: Any, o: Any, lse: Any, length: int, scale: float) -> tuple[Any, Any, Any]:
    """dq, dk and dv."""
    grad, q, k, v, o, lse = map(_dense, (grad, q, k, v, o, lse))
    dq, dk, dv = [cp.empty(x.shape, x.dtype) for x in (q, k, v)]
    delta = cp.empty(lse.shape, lse.dtype)
    _launch("query_gradient", _tiles(q, length), k, (grad, q, k, v, o, lse, delta, dq), q, k, length, scale)
    tiles = -(-k.shape[2] // _TILE)
    _launch("key_gradient", tiles, q, (grad, q, k, v, lse, delta, dk, dv), q, k, length, scale)
    return dq, dk, dv


def _tiles(q: Any, length: int) -> int:
    """Tiles of queries in a stack; short heads share them."""
    rows = q.shape[2]
    return -(-rows // _TILE) if length < _TILE else -(-length // _TILE) * (rows // length)


def _launch(
    name: str, tiles: int, streamed: Any, arrays: tuple[Any, ...], q: Any, k: Any, length: int, scale: float
) -> None:
    """One block for each tile of each head; it reads most of two arrays like ``streamed``."""
    heads, d = math.prod(q.shape[:2]), q.shape[3]
    together = max(1, min(heads, _CACHED * heads // (2 * streamed.nbytes)))
    numbers = map(np.int32, (q.shape[2], length, k.shape[2], heads, together))
    function, shared = _function(name, d)
    threads = 256 if name == "key_gradient" and d > 64 else 128
    unit = np.float32(scale * math.log2(math.e))
    function((tiles * heads,), (threads,), (*arrays, *numbers, unit), shared_mem=shared)


@cache
def _function(name: str, d: int) -> tuple[Any, int]:
    """A loop for the head width d, and the bytes of shared memory that it needs."""
    line = 2 * d + 16
    shared = {
        "forward": (_TILE + 2 * 2 * 64) * line + 4 * _TILE,
        "query_gradient": (2 * _TILE + 2 * 2 * (64 if d <= 64 else 32)) * line + 4 * _TILE,
        "key_gradient": 2 * _TILE * line + 2 * 64 * (2 * line + 12),
    }[name]
    function = _module(d).get_function(name)
    function.max_dynamic_shared_size_bytes = shared
    return function, shared


@cache
def _module(d: int) -> Any:
    source = Path(__file__).with_suffix(".cu").read_text()
    return cp.RawModule(code=source, options=("--std=c++17", f"-DHEAD_WIDTH={d}"))


@cache
def _shared_memory() -> int:
    return int(cp.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"])


def _dense(x: Any) -> Any:
    """x without gaps, at an address that can be read 16 bytes at a time."""
    return x if x.flags.c_contiguous and x.data.ptr % 16 == 0 else x.copy()
