"""All experts' products in one launch on any GPU (``tiled_products.cu``): how that is compiled and started."""

from functools import cache
from pathlib import Path
from typing import Any

import cupy as cp

_THREADS = 256
_TYPES = {"float32": ("float", "float"), "float64": ("double", "double"), "bfloat16": ("__nv_bfloat16", "float")}


def rows_by_matrices(y: Any, x: Any, weight: Any, offsets: Any, *, across: bool) -> None:
    """y[n] = weight[e] x[n], or weight[e]ᵀ x[n] if ``across``, for every row n of expert e."""
    num_experts, width, depth = len(weight), y.shape[1], x.shape[1]
    tile = 128 if len(x) > 64 * num_experts and width > 64 else 64
    grid = -(-width // tile), -(-len(x) // tile) + num_experts + 1  # each expert may begin a tile of its own
    steps = (width, 1) if across else (1, depth)
    sizes = len(x), num_experts, width, depth, *steps
    _launch("rows_by_matrices", tile, grid, x, weight, y, offsets, *sizes)


def sums_of_outer_products(y: Any, a: Any, b: Any, offsets: Any) -> None:
    """y[e] = Σ a[n] b[n]ᵀ over the rows n of expert e."""
    num_experts, height, width = y.shape
    tile = 128 if min(height, width) > 64 else 64
    grid = -(-width // tile), -(-height // tile), num_experts
    _launch("sums_of_outer_products", tile, grid, a, b, y, offsets, len(a), height, width)


def _launch(name: str, tile: int, grid: tuple[int, ...], a: Any, b: Any, y: Any, offsets: Any, *sizes: int) -> None:
    fours = all(n % 4 == 0 for n in (a.shape[-1], b.shape[-1], y.shape[-1])) and all(
        array.data.ptr % (4 * array.itemsize) == 0 for array in (a, b)
    )
    if all(grid):
        _function(name, y.dtype, tile, 4 if fours else 1)(grid, (_THREADS,), (a, b, y, offsets, *sizes), shared_mem=0)


@cache
def _function(name: str, dtype: Any, tile: int, wide: int) -> Any:
    real, acc = _TYPES[dtype.name]
    source = Path(__file__).with_suffix(".cu").read_text()
    options = "--std=c++17", f"-DREAL={real}", f"-DACC={acc}", f"-DTILE={tile}", f"-DWIDE={wide}"
    return cp.RawModule(code=source, options=options).get_function(name)
