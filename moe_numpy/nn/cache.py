"""The keys and values of tokens already read, so that generating one more token costs one token."""

from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..typing import Array, Float

_FIRST = 4096  # tokens: room at first; contexts of millions are seldom used


class KeyValueCache:
    """Keys and values of the tokens that one attention layer has read, in arrays that double where they are full.

    Args:
        shape: (B, Hkv, capacity, Dh); capacity is the most tokens that it can hold.
        dtype: type of the arrays, that of the model.
        xp: the library of the arrays, that of the model.
        d_value: width of a value, if it is not D.

    Attributes:
        length: how many tokens it holds: the position of the next one.
    """

    def __init__(
        self, shape: tuple[int, int, int, int], dtype: Any = np.float32, xp: Any = np, d_value: int | None = None
    ):
        batch, heads, self.capacity, d_head = shape
        first = batch, heads, min(self.capacity, _FIRST)
        self.keys = xp.empty((*first, d_head), dtype=dtype)
        self.values = xp.empty((*first, d_head if d_value is None else d_value), dtype=dtype)
        self.length = 0

    def append(
        self, k: Float[Array, "B Hkv S Dh"], v: Float[Array, "B Hkv S Dv"]
    ) -> tuple[Float[Array, "B Hkv keys Dh"], Float[Array, "B Hkv keys Dv"]]:
        """Keep S more tokens, and return views of all that it now holds.

        Raises:
            ValueError: the tokens do not fit, or are not of the cache's batch size, heads, width and type.
        """
        batch, heads, room, d_head = self.keys.shape
        new = k.shape[2]
        end = self.length + new
        if end > self.capacity:
            raise ValueError(
                f"the cache holds {self.length} of {self.capacity} tokens and cannot take {new} more; "
                "start a new one, with a larger capacity or fewer tokens"
            )
        if k.shape != (batch, heads, new, d_head) or k.dtype != self.keys.dtype:
            raise ValueError(
                f"the cache takes {self.keys.dtype} keys of shape {(batch, heads, new, d_head)}, "
                f"got {k.dtype} of shape {k.shape}"
            )
        if end > room:
            room = min(max(end, 2 * room), self.capacity)
            self.keys, self.values = self._longer(self.keys, room), self._longer(self.values, room)
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _longer(self, array: Float[Array, "B Hkv room Dh"], room: int) -> Float[Array, "B Hkv larger Dh"]:
        """The same tokens in an array with room for more."""
        batch, heads, _, width = array.shape
        longer = array_namespace(array).empty((batch, heads, room, width), dtype=array.dtype)
        longer[:, :, : self.length] = array[:, :, : self.length]
        return longer
