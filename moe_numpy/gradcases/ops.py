"""Gradient checks of the general functions in ``moe_numpy.ops``."""
# ruff: noqa: D103 (the name of a case says what it is)

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from ..ops import (
    GELU,
    Add,
    Affine,
    BroadcastTo,
    Cast,
    CausalAttention,
    Concatenate,
    CrossEntropy,
    Divide,
    Dropout,
    EmbeddingLookup,
    Exp,
    GetItem,
    LayerNorm,
    Log,
    LogSoftmax,
    LogSumExp,
    MatMul,
    Max,
    Mean,
    Multiply,
    Negate,
    Power,
    ReLU,
    Reshape,
    RMSNorm,
    RotaryEmbedding,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Sqrt,
    Subtract,
    Sum,
    SwiGLU,
    TakeAlongAxis,
    Tanh,
    Transpose,
    Where,
)
from . import case

Built: TypeAlias = tuple[Callable[..., Any], list[np.ndarray]]


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


@case(Where)
def where_broadcast(rng: np.random.Generator) -> Built:
    condition = rng.random((3, 4)) < 0.5
    return lambda a, b: Where.apply(condition, a, b), [
        rng.standard_normal((3, 1)),
        rng.standard_normal((2, 1, 4)),
    ]


# Matrix products


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


@case(LogSumExp)
def logsumexp_last_axis(rng: np.random.Generator) -> Built:
    return lambda x: LogSumExp.apply(x, axis=-1), [rng.standard_normal((3, 4))]


@case(LogSumExp)
def logsumexp_two_axes(rng: np.random.Generator) -> Built:
    return lambda x: LogSumExp.apply(x, axis=(0, 2)), [rng.standard_normal((3, 4, 2))]


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


# Activations


@case(ReLU)
def relu(rng: np.random.Generator) -> Built:
    return ReLU.apply, [rng.standard_normal((3, 4))]


@case(Sigmoid)
def sigmoid(rng: np.random.Generator) -> Built:
    return Sigmoid.apply, [3 * rng.standard_normal((3, 4))]


@case(Tanh)
def tanh(rng: np.random.Generator) -> Built:
    return Tanh.apply, [rng.standard_normal((3, 4))]


@case(Softplus)
def softplus(rng: np.random.Generator) -> Built:
    return Softplus.apply, [3 * rng.standard_normal((3, 4))]


@case(GELU)
def gelu_exact(rng: np.random.Generator) -> Built:
    return GELU.apply, [rng.standard_normal((3, 4))]


@case(GELU)
def gelu_tanh(rng: np.random.Generator) -> Built:
    return lambda x: GELU.apply(x, approximate="tanh"), [rng.standard_normal((3, 4))]


@case(SiLU)
def silu(rng: np.random.Generator) -> Built:
    return SiLU.apply, [rng.standard_normal((3, 4))]


@case(SwiGLU)
def swiglu(rng: np.random.Generator) -> Built:
    return SwiGLU.apply, [rng.standard_normal((3, 4)), rng.standard_normal((3, 4))]


@case(Softmax)
def softmax_last_axis(rng: np.random.Generator) -> Built:
    return lambda x: Softmax.apply(x, axis=-1), [rng.standard_normal((3, 4))]


@case(Softmax)
def softmax_first_axis(rng: np.random.Generator) -> Built:
    return lambda x: Softmax.apply(x, axis=0), [rng.standard_normal((3, 4))]


@case(LogSoftmax)
def log_softmax_last_axis(rng: np.random.Generator) -> Built:
    return LogSoftmax.apply, [rng.standard_normal((3, 4))]


@case(LogSoftmax)
def log_softmax_middle_axis(rng: np.random.Generator) -> Built:
    return lambda x: LogSoftmax.apply(x, axis=1), [rng.standard_normal((3, 4, 2))]


# Normalisation


@case(RMSNorm)
def rms_norm(rng: np.random.Generator) -> Built:
    return RMSNorm.apply, [rng.standard_normal((2, 3, 4)), rng.standard_normal(4)]


@case(RMSNorm)
def rms_norm_large_eps(rng: np.random.Generator) -> Built:
    return lambda x, w: RMSNorm.apply(x, w, eps=0.5), [rng.standard_normal((3, 4)), rng.standard_normal(4)]


@case(LayerNorm)
def layer_norm(rng: np.random.Generator) -> Built:
    return LayerNorm.apply, [rng.standard_normal((2, 3, 4)), rng.standard_normal(4), rng.standard_normal(4)]


# Attention


@case(RotaryEmbedding)
def rotary_embedding_with_offset(rng: np.random.Generator) -> Built:
    return lambda x: RotaryEmbedding.apply(x, offset=5, base=100.0), [rng.standard_normal((2, 2, 3, 4))]


@case(CausalAttention)
def attention_grouped_heads(rng: np.random.Generator) -> Built:
    return CausalAttention.apply, [rng.standard_normal((2, h, 3, 4)) for h in (4, 2, 2)]


@case(CausalAttention)
def attention_more_keys_than_queries(rng: np.random.Generator) -> Built:
    inputs = [rng.standard_normal((1, 2, n, 4)) for n in (2, 5, 5)]
    return lambda q, k, v: CausalAttention.apply(q, k, v, scale=0.7), inputs


@case(CausalAttention, Transpose)
def attention_on_transposed_views(rng: np.random.Generator) -> Built:
    def f(q: Any, k: Any, v: Any) -> Any:
        return CausalAttention.apply(*[Transpose.apply(x, axes=(0, 2, 1, 3)) for x in (q, k, v)])

    return f, [rng.standard_normal((2, 3, h, 4)) for h in (4, 2, 2)]


# Dropout and loss


@case(Dropout)
def dropout(rng: np.random.Generator) -> Built:
    seed = int(rng.integers(2**32))
    return lambda x: Dropout.apply(x, rate=0.4, rng=np.random.default_rng(seed)), [rng.standard_normal((5, 4))]


@case(CrossEntropy)
def cross_entropy(rng: np.random.Generator) -> Built:
    targets = rng.integers(0, 5, (2, 3))
    return lambda logits: CrossEntropy.apply(logits, targets), [rng.standard_normal((2, 3, 5))]


@case(CrossEntropy)
def cross_entropy_ignoring_some(rng: np.random.Generator) -> Built:
    targets = np.array([0, -1, 2, 4])
    return lambda logits: CrossEntropy.apply(logits, targets, ignore_index=-1), [rng.standard_normal((4, 5))]
