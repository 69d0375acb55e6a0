"""Gradient checks of ops that move entries: shape and indexing."""
# ruff: noqa: D103 (the name of a case says what it is)

import numpy as np

from ...ops import (
    BroadcastTo,
    Concatenate,
    EmbeddingLookup,
    GetItem,
    Reshape,
    TakeAlongAxis,
    Transpose,
)
from . import Built, case

# Shape


@case(Reshape)
def reshape(rng: np.random.Generator) -> Built:
    return lambda x: Reshape.apply(x, shape=(2, -1)), [rng.standard_normal((3, 4))]


@case(Reshape, Transpose)
def reshape_of_a_transposed_view(rng: np.random.Generator) -> Built:
    return lambda x: Reshape.apply(Transpose.apply(x), shape=(2, 6)), [rng.standard_normal((3, 4))]


@case(Transpose)
def transpose_three_axes(rng: np.random.Generator) -> Built:
    return lambda x: Transpose.apply(x, axes=(2, 0, -2)), [rng.standard_normal((3, 4, 2))]


@case(BroadcastTo)
def broadcast_to(rng: np.random.Generator) -> Built:
    return lambda x: BroadcastTo.apply(x, shape=(2, 3, 4)), [rng.standard_normal((3, 1))]


@case(Concatenate)
def concatenate_three(rng: np.random.Generator) -> Built:
    inputs = [rng.standard_normal((2, n, 3)) for n in (1, 2, 4)]
    return lambda a, b, c: Concatenate.apply(a, b, c, axis=-2), inputs


# Indexing


@case(GetItem)
def getitem_slices(rng: np.random.Generator) -> Built:
    return lambda x: GetItem.apply(x, index=(slice(None, None, -2), ..., None, 1)), [rng.standard_normal((4, 3, 2))]


@case(GetItem)
def getitem_rows_twice(rng: np.random.Generator) -> Built:
    rows = np.array([[0, 2], [2, -1]])
    return lambda x: GetItem.apply(x, index=rows), [rng.standard_normal((4, 3, 2))]


@case(GetItem)
def getitem_pairs_twice(rng: np.random.Generator) -> Built:
    index = (np.array([0, 2, 2]), slice(None), np.array([1, 0, 0]))
    return lambda x: GetItem.apply(x, index=index), [rng.standard_normal((4, 3, 2))]


@case(GetItem)
def getitem_mask(rng: np.random.Generator) -> Built:
    mask = rng.random((4, 3)) < 0.5
    return lambda x: GetItem.apply(x, index=mask), [rng.standard_normal((4, 3, 2))]


@case(TakeAlongAxis)
def take_along_axis_duplicates(rng: np.random.Generator) -> Built:
    indices = np.array([[[1], [1], [0]], [[2], [-1], [2]]])
    return lambda x: TakeAlongAxis.apply(x, indices, axis=1), [rng.standard_normal((2, 3, 4))]


@case(EmbeddingLookup)
def embedding_duplicates(rng: np.random.Generator) -> Built:
    ids = np.array([[0, 3, 3], [3, 1, 0]])
    return lambda weight: EmbeddingLookup.apply(weight, ids), [rng.standard_normal((5, 4))]
