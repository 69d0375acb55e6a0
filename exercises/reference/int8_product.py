"""A product with weights in int8 in the order of sums of the compiled loops, which round each term only once."""

import numpy as np

from moe_numpy.formats import bfloat16
from moe_numpy.typing import Array, Float, Shaped


def int8_product(
    x: Float[Array, "N in"], weights: Float[Array, "out in"]
) -> tuple[Shaped[Array, "out in"], Float[Array, "out n"], Float[Array, "N out"]]:
    """y_n = W x_n with W rounded to int8 in groups of 32, and sums in one fixed order.

        s = max |w| / 127 of a group, rounded to bfloat16        q = w / s, rounded, ties to even; 0 where s is 0
        y_no = Σ_j (q_oj s_oj) x_nj

    Group g of a row of W has its entries 32 g ... 32 g + 31. Codes are computed with the rounded scale, and lie between
    -127 and 127. ``bfloat16.encode`` rounds a float32 to bits, ``bfloat16.decode`` makes a float32 of them.

    The order of sums: there are 16 lanes, and lane l adds the terms j = l, l + 16, l + 32, ... one after the other.
    Then the lanes are added by halves: l and l + 8, of the 8 sums l and l + 4, of 4 sums l and l + 2, and the last two.
    Everything is in float32. So y_n is the same, bit for bit, whatever other rows there are.

    Args:
        x: float32.
        weights: W, float32.

    Returns:
        codes [out, in] of int8, scales [out, in / 32] of float32, and y [N, out] of float32.

    Raises:
        ValueError: ``in`` is no multiple of 32.
    """
    out, width = weights.shape
    if width % 32:
        raise ValueError(f"groups have 32 weights: in must be a multiple of 32, got {width}")
    groups = weights.reshape(out, width // 32, 32)
    scales = bfloat16.decode(bfloat16.encode(np.abs(groups).max(axis=2) / np.float32(127)))
    divisors = np.where(scales == 0, 1, scales)[:, :, None]
    codes = np.clip(np.where(scales[:, :, None] == 0, 0, np.rint(groups / divisors)), -127, 127).astype(np.int8)
    values = (codes * scales[:, :, None]).reshape(out, width)
    lanes = np.zeros((len(x), out, 16), np.float32)
    for start in range(0, width, 16):
        lanes += x[:, None, start : start + 16] * values[:, start : start + 16]
    for half in (8, 4, 2, 1):
        lanes = lanes[:, :, :half] + lanes[:, :, half:]
    return codes.reshape(out, width), scales, lanes[:, :, 0]
