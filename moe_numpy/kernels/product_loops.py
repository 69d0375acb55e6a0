"""The compiled loops of ``weight_product``: rows of activations times a weight matrix in any format.

Arrays come as addresses and as bytes from row to row, so that one compiled version serves read-only memory maps, views
and slots of a cache alike. Callers keep the arrays alive. Loops in other files may call these; their ``MADE_OF`` then
lists this file and those listed here.
"""

import numpy as np

from . import decoders, row_products, vectors
from .loops import compiled
from .row_products import (
    KINDS,
    ROWS_WITH_FOUR,
    ROWS_WITH_ONE,
    ROWS_WITH_TWO,
    TILE,
    products_of_tile,
    products_with_four,
    products_with_one,
    products_with_two,
    unpack,
)

MADE_OF = (decoders, row_products, vectors)  # after a change there, kept loops are out of date

_TILE_ROWS, _TILE_COLUMNS = TILE
_DIRECT = tuple(decoder.direct for decoder in decoders.DECODERS.values())
_BLOCK = 16  # rows of weights unpacked at once: they stay in the cache while all rows of x come by


def operands(weights):
    """The first arguments of ``product`` for a matrix, or of ``product_of_experts`` for a stack of ``formats/``."""
    found, axes = [KINDS[weights.format]], len(weights.shape) - 1
    for array in weights.operands[:2]:
        known = array is not None
        found += [array.ctypes.data, *reversed(array.strides[:axes])] if known else [0] * (1 + axes)
    return *found, weights.operands.scale_rows, weights.shape[-1]


@compiled
def pack(x, even_first, y):
    """Rows of x, padded with zeros to a multiple of 32; of each 32, even ones before odd ones where that is asked."""
    width = x.shape[1]
    for n in range(len(x)):
        row, out = x[n], y[n]
        if even_first:
            for c in range(0, width, 32):
                for j in range(16):
                    out[c + j] = row[c + 2 * j]
                for j in range(16):
                    out[c + 16 + j] = row[c + 2 * j + 1]
        else:
            for j in range(width):
                out[j] = row[j]
            for j in range(width, len(out)):
                out[j] = 0


@compiled
def product(kind, codes, codes_step, scales, scales_step, scale_rows, width, x, num_rows, y, y_step, lo, hi):
    """y[n, i] = Σ_j w_ij x_nj for i = lo ... hi-1.

    ``kind`` is one of KINDS. ``scale_rows`` rows of weights have a row of scales in common, one for every 32 columns.
    x comes from ``pack`` and begins at a multiple of 64 bytes; rows of y are ``y_step`` bytes apart.
    """
    chunks = (width + 31) // 32
    if num_rows <= _DIRECT[kind] and width % 32 == 0:
        weights = kind, codes, codes_step, scales, scales_step, scale_rows, chunks
        together = ROWS_WITH_ONE if num_rows == 1 else ROWS_WITH_TWO if num_rows == 2 else ROWS_WITH_FOUR
        apart = (hi - lo + together - 1) // together  # few streams through memory, each without a gap
        for i in range(lo, lo + apart):
            if num_rows == 1:
                products_with_one(*weights, x, 0, 1, y, y_step, i, apart, hi)
            elif num_rows == 2:
                products_with_two(*weights, x, 0, 2, y, y_step, i, apart, hi)
            else:
                for n in range(0, num_rows, 4):
                    products_with_four(*weights, x, n, num_rows, y, y_step, i, apart, hi)
        return
    step = 128 * chunks
    memory = np.empty(_BLOCK * 32 * chunks + 16, np.float32)
    floats = (memory.ctypes.data + 63) // 64 * 64
    for start in range(lo, hi, _BLOCK):
        num = min(_BLOCK, hi - start)
        for i in range(num):
            row = start + i
            unpack(kind, codes + row * codes_step, scales + row // scale_rows * scales_step, width, floats + i * step)
        for n in range(0, num_rows, _TILE_COLUMNS):
            for i in range(0, num, _TILE_ROWS):
                products_of_tile(floats, step, chunks, x, n, num_rows, y + 4 * start, y_step, i, num)
    memory[0] = 0  # without a use down here, it would be freed when its address is known


@compiled
def product_of_experts(
    kind, codes, codes_step, codes_stride, scales, scales_step, scales_stride, scale_rows, width, experts, x, y, y_step,
    lo, hi,
):  # fmt: skip
    """y[n, i] = Σ_j w_ij x_nj with the matrix w = experts[n] of a stack; ``stride``: bytes from matrix to matrix."""
    x_step = (width + 31) // 32 * 128
    for n in range(len(experts)):
        own_codes, own_scales = codes + experts[n] * codes_stride, scales + experts[n] * scales_stride
        own_x, own_y = x + n * x_step, y + n * y_step
        product(
            kind, own_codes, codes_step, own_scales, scales_step, scale_rows, width, own_x, 1, own_y, y_step, lo, hi
        )
