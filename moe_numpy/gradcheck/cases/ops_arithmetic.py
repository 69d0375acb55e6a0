"""Gradient checks of arithmetic, matrix multiplications and reductions."""
# ruff: noqa: D103 (the name of a case says what it is)

import numpy as np

from ...ops import (
    Abs,
    Add,
    Affine,
    Cast,
    Clip,
    Divide,
    Exp,
    Log,
    LogSumExp,
    MatMul,
    Max,
    Mean,
    Min,
    Multiply,
    Negate,
    Power,
    Sqrt,
    Subtract,
    Sum,
    Where,
    WideAffine,
)
from . import Built, case


def _positive(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.uniform(0.5, 2.0, shape)


# Arithmetic


@case(Add)
def add_broadcast(rng: np.random.Generator) -> Built:
    return Add.apply, [rng.standard_normal((3, 1)), rng.standard_normal((2, 1, 4))]


@case(Subtract)
def subtract_broadcast(rng: np.random.Generator) -> Built:
    return Subtract.apply, [rng.standard_normal((3, 1)), rng.standard_normal((2, 1, 4))]


@case(Multiply)
def multiply_broadcast(rng: np.random.Generator) -> Built:
    return Multiply.apply, [rng.standard_normal((3, 1)), rng.standard_normal((2, 1, 4))]


@case(Multiply)
def multiply_by_itself(rng: np.random.Generator) -> Built:
    return lambda x: Multiply.apply(x, x), [rng.standard_normal((3, 4))]


@case(Divide)
def divide_broadcast(rng: np.random.Generator) -> Built:
    return Divide.apply, [rng.standard_normal((3, 1)), _positive(rng, 2, 1, 4)]


@case(Negate)
def negate(rng: np.random.Generator) -> Built:
    return Negate.apply, [rng.standard_normal((3, 4))]


@case(Abs)
def absolute_value(rng: np.random.Generator) -> Built:
    return Abs.apply, [rng.standard_normal((3, 4))]


@case(Power)
def power_fraction(rng: np.random.Generator) -> Built:
    return lambda x: Power.apply(x, exponent=-1.5), [_positive(rng, 3, 4)]


@case(Power)
def power_cube_of_negative(rng: np.random.Generator) -> Built:
    return lambda x: Power.apply(x, exponent=3), [-_positive(rng, 3, 4)]


@case(Exp)
def exp(rng: np.random.Generator) -> Built:
    return Exp.apply, [rng.standard_normal((3, 4))]


@case(Log)
def log(rng: np.random.Generator) -> Built:
    return Log.apply, [_positive(rng, 3, 4)]


@case(Sqrt)
def sqrt(rng: np.random.Generator) -> Built:
    return Sqrt.apply, [_positive(rng, 3, 4)]


@case(Cast)
def cast_to_the_same_type(rng: np.random.Generator) -> Built:
    return lambda x: Cast.apply(x, dtype=np.float64), [rng.standard_normal((3, 4))]


@case(Clip)
def clip(rng: np.random.Generator) -> Built:
    return lambda x: Clip.apply(x, limit=0.7), [rng.standard_normal((3, 4))]


@case(Where)
def where_broadcast(rng: np.random.Generator) -> Built:
    condition = rng.random((3, 4)) < 0.5
    return lambda a, b: Where.apply(condition, a, b), [
        rng.standard_normal((3, 1)),
        rng.standard_normal((2, 1, 4)),
    ]


# Matrix multiplications


@case(MatMul)
def matmul_matrices(rng: np.random.Generator) -> Built:
    return MatMul.apply, [rng.standard_normal((2, 3)), rng.standard_normal((3, 4))]


@case(MatMul)
def matmul_batch_by_matrix(rng: np.random.Generator) -> Built:
    return MatMul.apply, [rng.standard_normal((2, 5, 3)), rng.standard_normal((3, 4))]


@case(MatMul)
def matmul_batches_broadcast(rng: np.random.Generator) -> Built:
    return MatMul.apply, [rng.standard_normal((2, 1, 2, 3)), rng.standard_normal((4, 3, 2))]


@case(MatMul)
def matmul_vectors(rng: np.random.Generator) -> Built:
    return MatMul.apply, [rng.standard_normal(3), rng.standard_normal(3)]


@case(MatMul)
def matmul_vector_by_batch(rng: np.random.Generator) -> Built:
    return MatMul.apply, [rng.standard_normal(3), rng.standard_normal((4, 3, 2))]


@case(MatMul)
def matmul_batch_by_vector(rng: np.random.Generator) -> Built:
    return MatMul.apply, [rng.standard_normal((4, 2, 3)), rng.standard_normal(3)]


@case(Affine)
def affine_with_bias(rng: np.random.Generator) -> Built:
    return Affine.apply, [rng.standard_normal((2, 3, 4)), rng.standard_normal((5, 4)), rng.standard_normal(5)]


@case(Affine)
def affine_without_bias(rng: np.random.Generator) -> Built:
    return lambda x, weight: Affine.apply(x, weight, None), [
        rng.standard_normal((6, 4)),
        rng.standard_normal((5, 4)),
    ]


@case(WideAffine)
def affine_of_stored_weights(rng: np.random.Generator) -> Built:
    return WideAffine.apply, [rng.standard_normal((2, 3, 4)), rng.standard_normal((5, 4)), rng.standard_normal(5)]


# Reductions


@case(Sum)
def sum_of_all(rng: np.random.Generator) -> Built:
    return Sum.apply, [rng.standard_normal((3, 4))]


@case(Sum)
def sum_over_two_axes(rng: np.random.Generator) -> Built:
    return lambda x: Sum.apply(x, axis=(0, -1), keepdims=True), [rng.standard_normal((3, 4, 2))]


@case(Mean)
def mean_of_all(rng: np.random.Generator) -> Built:
    return Mean.apply, [rng.standard_normal((3, 4))]


@case(Mean)
def mean_over_middle_axis(rng: np.random.Generator) -> Built:
    return lambda x: Mean.apply(x, axis=1), [rng.standard_normal((3, 4, 2))]


@case(Max)
def max_of_all(rng: np.random.Generator) -> Built:
    return Max.apply, [rng.standard_normal((3, 4))]


@case(Max)
def max_over_middle_axis(rng: np.random.Generator) -> Built:
    return lambda x: Max.apply(x, axis=1, keepdims=True), [rng.standard_normal((3, 4, 2))]


@case(Min)
def min_over_first_axis(rng: np.random.Generator) -> Built:
    return lambda x: Min.apply(x, axis=0), [rng.standard_normal((3, 4, 2))]


@case(Mean, Sum, Sqrt)
def standard_deviation(rng: np.random.Generator) -> Built:
    return lambda x: x.std(axis=(0, 2), ddof=1), [rng.standard_normal((3, 4, 2))]


@case(MatMul)
def matmul_without_entries(rng: np.random.Generator) -> Built:
    return lambda a, b: MatMul.apply(MatMul.apply(a, b), b), [
        rng.standard_normal((0, 3, 4)),
        rng.standard_normal((4, 4)),
    ]


@case(LogSumExp)
def logsumexp_last_axis(rng: np.random.Generator) -> Built:
    return lambda x: LogSumExp.apply(x, axis=-1), [rng.standard_normal((3, 4))]


@case(LogSumExp)
def logsumexp_two_axes(rng: np.random.Generator) -> Built:
    return lambda x: LogSumExp.apply(x, axis=(0, 2)), [rng.standard_normal((3, 4, 2))]
