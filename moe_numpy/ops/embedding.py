"""Rows of a table, looked up by id."""

from typing import Any

from jaxtyping import Integer

from ..autodiff import Function
from ..devices import on_host
from ..kernels import add_rows
from ..typing import Array, Float


class EmbeddingLookup(Function):
    """y[n] = W[ids[n]], that is y = O W with the one-hot matrix O[n, v] = [ids[n] = v].

    Raises:
        TypeError: the ids are not integers.
        ValueError: an id is outside 0 ... V-1. Ids on a GPU are trusted: checking them would wait for it.
    """

    def forward(self, weight: Float[Array, "V d"], ids: Integer[Array, "*batch"]) -> Float[Array, "*batch d"]:
        if ids.dtype.kind not in "iu":
            raise TypeError(f"ids must be integers, got dtype {ids.dtype}")
        if on_host(ids) and ids.size and (ids.min() < 0 or ids.max() >= len(weight)):
            raise ValueError(f"ids must be between 0 and {len(weight) - 1}, got values from {ids.min()} to {ids.max()}")
        self.num_rows = len(weight)
        self.save(ids)
        return weight[ids]

    def backward(self, grad: Float[Array, "*batch d"]) -> Any:
        """dW = Oᵀ dy: row v is the sum of dy[n] over all n with ids[n] = v."""
        (ids,) = self.saved
        rows = grad.reshape(ids.size, grad.shape[-1])
        return add_rows(rows, ids.reshape(-1), self.num_rows), None
