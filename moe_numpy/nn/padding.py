"""Padding: positions of a batch without a token. Layers take them out, and put zeros in their place."""

import math
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Tensor
from ..kernels import to_host
from ..ops import FillPlaces
from ..typing import Array, Bool, Float, Int


class Padding:
    """The real tokens of a batch. Nothing is computed with the others, so they may hold anything, even NaN.

    Which tokens are real decides shapes, so the mask has to come to the host: one wait for a GPU, none if the mask is
    an array of NumPy.

    Args:
        mask: True for real tokens.
        shape: of the batch, [..., S] with sequences of S positions.

    Attributes:
        mask: the same, as an array of NumPy.
        real: the numbers of the real tokens in the flattened batch, ascending.
        lengths: of the sequences with real tokens, in real tokens.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: it has another shape.
    """

    def __init__(self, mask: Bool[Array, "..."], shape: tuple[int, ...]):
        mask = mask.data if isinstance(mask, Tensor) else mask if hasattr(mask, "dtype") else np.asarray(mask)
        wanted = f"mask must be a boolean array of shape {shape}, True for real tokens; got {mask.dtype}"
        if mask.dtype != bool:
            raise TypeError(f"{wanted} of shape {mask.shape}")
        if mask.shape != shape:
            raise ValueError(f"{wanted} of shape {mask.shape}")
        self.shape, self.mask = shape, to_host(mask)
        rows = self.mask.reshape(math.prod(shape[:-1]), *shape[-1:] or (1,))
        self.real: Int[np.ndarray, " N"] = np.flatnonzero(rows)
        self.lengths: tuple[int, ...] = tuple(n for n in rows.sum(axis=1).tolist() if n)
        at_front = np.arange(rows.shape[1]) < rows.sum(axis=1, keepdims=True)
        self._front: Int[np.ndarray, " N"] = np.flatnonzero(at_front)

    def remove(self, x: Any) -> Any:
        """[..., S, n] to [N, n]: the real tokens one after the other. For Tensors, and with n absent for arrays."""
        rest = x.shape[len(self.shape) :]
        return x.reshape(math.prod(self.shape), *rest)[self._index(x, self.real)]

    def restore(self, rows: Float[Tensor, "N n"]) -> Float[Tensor, "... n"]:
        """[N, n] to [..., S, n]: every real token back in its place, zeros between."""
        return self._spread(rows, self.real)

    def to_front(self, x: Float[Tensor, "... n"]) -> Float[Tensor, "... n"]:
        """The real tokens of each sequence first, in their order, and zeros behind them."""
        return self._spread(self.remove(x), self._front)

    def from_front(self, x: Float[Tensor, "... n"]) -> Float[Tensor, "... n"]:
        """The inverse of :meth:`to_front`; padding becomes zero."""
        return self.restore(x.reshape(math.prod(self.shape), x.shape[-1])[self._index(x, self._front)])

    def _spread(self, rows: Tensor, places: Any) -> Tensor:
        filled = FillPlaces.apply(rows, self._index(rows, places), num_places=math.prod(self.shape))
        return filled.reshape(*self.shape, rows.shape[1])

    def _index(self, x: Any, index: Any) -> Int[Array, " N"]:
        return array_namespace(x.data if isinstance(x, Tensor) else x).asarray(index)


def padding_of(mask: Bool[Array, "..."] | None, shape: tuple[int, ...]) -> Padding | None:
    """The padding, or None where every token is real: with nothing to take out, a layer runs as without a mask."""
    if mask is None:
        return None
    padding = Padding(mask, shape)
    return padding if len(padding.real) < math.prod(shape) else None
