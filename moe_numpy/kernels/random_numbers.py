"""Random numbers that follow from a key, the number of the draw and their place alone: nothing has a state.

A CUDA graph draws new numbers at each replay if the key is one of its inputs, and every number can be computed by
itself.
"""

import numpy as np
from jaxtyping import Integer

from ..typing import Array, Float
from .kernel import kernel

_WORD = 0xFFFFFFFF


def philox(counter: Integer[Array, "4 n"], key: Integer[Array, " 2"]) -> Integer[Array, "4 n"]:
    """Four random words of 32 bits for each counter: Philox4x32-10 (Salmon et al. 2011, section 3.3).

    Each of ten rounds multiplies two words, xors the upper halves of the products with the other words and the key,
    and exchanges words; the key grows by two constants from round to round.
    """
    a, b, c, d = counter.astype(np.uint64)
    k, m = (np.uint64(word) for word in key.tolist())
    word, half = np.uint64(_WORD), np.uint64(32)
    for _ in range(10):
        one, other = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b, c, d = other >> half ^ b ^ k, other & word, one >> half ^ d ^ m, one & word
        k, m = k + np.uint64(0x9E3779B9) & word, m + np.uint64(0xBB67AE85) & word
    return np.stack([a, b, c, d])


@kernel
def uniforms(key: Integer[Array, " 2"], draw: int, size: int) -> Float[Array, " size"]:
    """U(0, 1) without 1, as float64: 53 of 64 bits of :func:`philox`.

    Numbers 2i and 2i + 1 of a draw are made of the words 0 and 1, 2 and 3 for the counter (i, its upper 32 bits,
    ``draw``, 0). The key is two words of 32 bits.
    """
    block = np.arange(-(-size // 2))
    counter = np.stack([block & _WORD, block >> 32, np.full_like(block, draw), np.zeros_like(block)])
    high, low = philox(counter, key).reshape(2, 2, -1).swapaxes(0, 1)
    bits = high << np.uint64(32) | low
    return (bits.T.reshape(-1)[:size] >> np.uint64(11)) * 2.0**-53
