"""Rows and entries by index: taking, scattering, adding up. The engine's gradients of indexing are made of these.

Indices and keys count from 0. The compiled loops answer a wrong one with an IndexError; the definitions do what NumPy
does.
"""

from typing import Any

import numpy as np
from jaxtyping import Integer

from ..typing import Array, Bool, Float, Int, Shaped
from .kernel import kernel


@kernel(computes=False)
def take_rows(x: Shaped[Array, "T *d"], index: Int[Array, " N"]) -> Shaped[Array, "N *d"]:
    """y[n] = x[index[n]]: rows of a matrix, or entries of a vector."""
    return x[index]


@kernel
def add_rows(rows: Float[Array, "N d"], index: Integer[Array, " N"], num_rows: int) -> Float[Array, "num_rows d"]:
    """y[i] = Σ of the rows n with index[n] = i, added in the order of n.

    ``y[index] += rows`` would keep only the last of several rows with one index.
    """
    y = np.zeros((num_rows, rows.shape[1]), rows.dtype)
    np.add.at(y, index, rows)
    return y


@kernel(computes=False)
def scatter(values: Shaped[Array, " N"], index: Int[Array, " N"], size: int) -> Shaped[Array, " size"]:
    """y[index[n]] = values[n] and 0 elsewhere; no index occurs twice. For a permutation p, scatter(x[p], p, N) is x."""
    y = np.zeros(size, values.dtype)
    y[index] = values
    return y


@kernel
def sum_by_key(values: Float[Array, " N"], keys: Int[Array, " N"], num_keys: int) -> Float[Array, " num_keys"]:
    """s_i = Σ of the values whose key is i."""
    return np.bincount(keys, weights=values, minlength=num_keys).astype(values.dtype)


@kernel
def max_by_key(values: Float[Array, " N"], keys: Int[Array, " N"], num_keys: int) -> Float[Array, " num_keys"]:
    """m_i = the largest of the values whose key is i; -∞ for a key that does not occur."""
    y = np.full(num_keys, -np.inf, values.dtype)
    np.maximum.at(y, keys, values)
    return y


@kernel
def add_along_rows(values: Float[Array, "R m"], column: Int[Array, "R m"], width: int) -> Float[Array, "R width"]:
    """y[r, c] = Σ of the values in row r whose column is c."""
    y = np.zeros((len(values), width), values.dtype)
    np.add.at(y, (np.arange(len(values))[:, None], column), values)
    return y


@kernel
def where_true(mask: Bool[Array, " M"]) -> tuple[Int[Array, " N"], Bool[Array, " M"] | None]:
    """The indices where the mask holds, and None; on a GPU, where no shape may depend on values, all and the mask."""
    return np.flatnonzero(mask), None


@kernel(computes=False)
def to_host(x: Shaped[Array, "..."]) -> Any:
    """The same entries as a NumPy array; for an array on a GPU this waits and copies."""
    return x
