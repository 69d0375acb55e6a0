"""A text that grows: how many tokens were read, and what each layer keeps of them."""

from typing import Any

import numpy as np

from ..typing import Float

_FIRST = 256  # tokens: room at first


class Kept:
    """Vectors that one layer keeps of every token of one sequence, in an array that doubles where it is full.

    Attributes:
        rows: [L, width], a view of those that are there.
    """

    def __init__(self, width: int):
        self._room = np.empty((_FIRST, width), np.float32)
        self.rows = self._room[:0]

    def append(self, rows: Float[np.ndarray, "S width"]) -> Float[np.ndarray, "L width"]:
        """Keep S more; return all."""
        length = len(self.rows)
        end = length + len(rows)
        if end > len(self._room):
            longer = np.empty((max(end, 2 * len(self._room)), self._room.shape[1]), np.float32)
            longer[:length] = self.rows
            self._room = longer
        self._room[length:end] = rows
        self.rows = self._room[:end]
        return self.rows


class Sequence:
    """The state of one text.

    Attributes:
        length: tokens that were read: the position of the next one.
        layers: what each layer keeps, made by its attention.
    """

    def __init__(self, layers: list[Any]):
        self.length = 0
        self.layers = layers
