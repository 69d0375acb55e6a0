"""Products with a weight matrix in each format, beside copying memory and the product of float32 weights in NumPy.

``gw_N`` is billions of weights a second with N rows, ``gb_1`` gigabytes of stored weights a second with one,
``copy_gb`` those that copying reads and writes, and ``blas_N`` how many times as fast as NumPy the product is.
"""

from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import numpy as np

from moe_numpy.formats import FORMATS, quantise

from .timing import in_turn

OUT, IN = 65536, 1024  # 268 MB in float32
ROWS = (1, 8, 128)
_LARGEST = 1 << 32  # multiplications; many rows meet a part of the matrix


def measure(rounds: int, budget_s: float) -> Generator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield the name of each format and the function that measures its row."""
    weights = np.random.default_rng(0).standard_normal((OUT, IN), dtype=np.float32)
    target = np.empty_like(weights)
    for name in FORMATS:
        yield name, partial(_row, name, weights, target, rounds, budget_s)


def _row(name: str, weights: Any, target: Any, rounds: int, budget_s: float) -> dict[str, Any]:
    whole = quantise(weights, name)
    row: dict[str, Any] = {"format": name, "bits": 8 * whole.nbytes / weights.size}
    for num in ROWS:
        out = min(OUT, _LARGEST // (num * IN))
        matrix, x = whole.rows(0, out), np.random.default_rng(1).standard_normal((num, IN), dtype=np.float32)
        product, blas = partial(matrix.product, x), partial(np.matmul, x, weights[:out].T)
        candidates = {"product": product, "copy": partial(np.copyto, target, weights), "blas": blas}
        if num > 1:
            del candidates["copy"]
        ms = in_turn(candidates, rounds, budget_s / len(ROWS))
        row[f"gw_{num}"] = out * IN / ms["product"] / 1e6
        if num == 1:
            row["gb_1"] = matrix.nbytes / ms["product"] / 1e6
            row["copy_gb"] = 2 * weights.nbytes / ms["copy"] / 1e6
        row[f"blas_{num}"] = ms["blas"] / ms["product"]
    return row
