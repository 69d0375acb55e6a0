"""A text that grows: how many tokens were read, and what each layer keeps of them."""

from typing import Any

import numpy as np

from ..typing import Float

_FIRST = 256  # tokens: room at first


class Kept:
    """Vectors that one layer keeps of the tokens of one sequence.

    Room doubles where it is full; where only the last ``window`` tokens will be seen, those before them make room.

    Args:
        width: of a vector.
        window: how many tokens before the next one will still be seen; None for all.

    Attributes:
        start: the position of the first token that is still there.
        rows: [L, width], a view of those that are.
        address: where they begin.
    """

    def __init__(self, width: int, window: int | None = None):
        self.window, self.start = window, 0
        self.rows: Any
        self._settle(np.empty((_FIRST, width), np.float32), 0)

    def extend(self, num: int) -> Float[np.ndarray, "num width"]:
        """Make room for the vectors of ``num`` more tokens, and return it."""
        length = len(self.rows)
        if length + num > len(self._room):
            forgotten = 0 if self.window is None else max(length - self.window, 0)
            before, length = self.rows[forgotten:], length - forgotten
            enough = len(self._room) >= length + num and forgotten >= len(self._room) // 2
            size = len(self._room) if enough else max(length + num, 2 * len(self._room))
            room = np.empty((size, self._room.shape[1]), np.float32)
            room[:length] = before
            self._settle(room, length)
            self.start += forgotten
        self.rows = self._room[: length + num]
        return self.rows[length:]

    def append(self, rows: Float[np.ndarray, "S width"]) -> Float[np.ndarray, "L width"]:
        """Keep S more; return all that are there."""
        self.extend(len(rows))[...] = rows
        return self.rows

    def _settle(self, room: Float[np.ndarray, "_ width"], length: int) -> None:
        self._room, self.address, self.rows = room, room.ctypes.data, room[:length]

    def cut(self, length: int) -> None:
        """Forget the tokens from position ``length`` on.

        Raises:
            ValueError: tokens that will be seen again are no longer there.
        """
        if length < self.start or (self.window is not None and self.start > max(length - self.window, 0)):
            raise ValueError(f"position {length} is too far back: tokens before {self.start} were forgotten")
        self.rows = self._room[: length - self.start]

    def copy(self) -> "Kept":
        """The same vectors in an array of their own."""
        other = Kept(self._room.shape[1], self.window)
        other.start = self.start
        other._settle(self._room.copy(), len(self.rows))
        return other


class Sequence:
    """The state of one text.

    Attributes:
        length: tokens that were read: the position of the next one.
        layers: what each layer keeps, made by its attention.
    """

    def __init__(self, layers: list[tuple[Kept, ...]]):
        self.length = 0
        self.layers = layers

    def cut(self, length: int) -> None:
        """Unread the tokens from position ``length`` on. ValueError if there are fewer, or windows forgot too much."""
        if not 0 <= length <= self.length:
            raise ValueError(f"length must be from 0 to {self.length}, got {length}")
        for kept in self._all():
            kept.cut(length)
        self.length = length

    def copy(self) -> "Sequence":
        """Another text with the same beginning: a prompt is read once for all that begin with it."""
        other = Sequence([tuple(kept.copy() for kept in layer) for layer in self.layers])
        other.length = self.length
        return other

    @property
    def nbytes(self) -> int:
        """Memory of what is kept."""
        return sum(kept._room.nbytes for kept in self._all())

    def _all(self) -> Any:
        return (kept for layer in self.layers for kept in layer)
