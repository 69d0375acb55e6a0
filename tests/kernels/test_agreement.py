"""Every kernel of every implementation against its definition.

A new kernel gets a case here; the tests below name the files and the cases that lack it.
"""

import ast
import contextlib
import inspect
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from moe_numpy import formats, inference, kernels, models, training
from moe_numpy.kernels import registry

OTHERS = [
    pytest.param("numba", marks=pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")),
    pytest.param("cupy", marks=pytest.mark.gpu),
]
T, E, K, D, F = 37, 5, 2, 24, 16
ODD = 23  # entries of a row that does not end with 16 bytes


CASES = {}


def case(function):
    """A function of (rng, dtype, view) that returns the arguments of the kernel of its name.

    ``view`` turns an array into an equal one that is not contiguous, or leaves it alone.
    """
    name = function.__name__.partition("__")[0]
    CASES.setdefault(name, []).append(pytest.param(name, function, id=function.__name__))
    return function


def normal(rng, dtype, *shape):
    return (2 * rng.standard_normal(shape)).astype(dtype)


def few_values(rng, dtype, *shape):
    return rng.choice([-np.inf, -1, 0, 0.5], shape).astype(dtype)


def keys(rng):
    return rng.integers(0, E, T * K)


def offsets(*counts):
    return np.concatenate([[0], np.cumsum(counts)])


UNEVEN, ONE_TAKES_ALL, ALL_EMPTY = offsets(30, 0, 7, 36, 1), offsets(0, 74, 0, 0, 0), offsets(0, 0, 0, 0, 0)
LARGE = offsets(700, 0, 300, 24, 1)  # several blocks, several threads


@case
def top_k(rng, dtype, view):
    return view(normal(rng, dtype, T, E)), K


@case
def top_k__ties_and_minus_infinity(rng, dtype, view):
    return view(few_values(rng, dtype, 3000, E)), 3


@case
def top_k__nan_comes_last(rng, dtype, view):
    x = normal(rng, dtype, T, E)
    x[rng.random(x.shape) < 0.3] = np.nan
    return view(x), E


@case
def top_k__one_token(rng, dtype, view):
    return view(normal(rng, dtype, 1, E)), 1


@case
def top_k__many_of_a_row(rng, dtype, view):
    return view(few_values(rng, dtype, 3, 200)), 100


@case
def top_k__no_token(rng, dtype, view):
    return view(normal(rng, dtype, 0, E)), K


@case
def tokens_and_ranks(rng, dtype, view):
    return (view(rng.integers(0, E, (T, K))),)


@case
def stable_order(rng, dtype, view):
    return view(keys(rng)), E


@case
def stable_order__of_one_key(rng, dtype, view):
    return view(np.full(T, 3)), E


@case
def stable_order__of_nothing(rng, dtype, view):
    return np.zeros(0, int), E


@case
def sort_by_key(rng, dtype, view):
    return view(keys(rng)), E + 2


@case
def sort_by_key__many_keys(rng, dtype, view):
    return view(rng.integers(5, 5000, 3000)), 6000


@case
def sort_by_key__in_several_parts(rng, dtype, view):
    return view(rng.integers(0, E, 3000)), E


@case
def sort_by_key__of_nothing(rng, dtype, view):
    return np.zeros(0, int), E


@case
def count(rng, dtype, view):
    return view(keys(rng)), E + 2


@case
def offsets_of(rng, dtype, view):
    return (view(rng.integers(0, 3, E)),)


@case
def position_by_key(rng, dtype, view):
    return view(keys(rng)), E


@case
def scatter(rng, dtype, view):
    return view(normal(rng, dtype, T)), rng.permutation(2 * T)[:T], 2 * T


@case
def sum_by_key(rng, dtype, view):
    return view(normal(rng, dtype, T * K)), view(keys(rng)), E + 2


@case
def max_by_key(rng, dtype, view):
    return view(normal(rng, dtype, T * K)), view(keys(rng)), E + 2


@case
def max_by_key__nan_is_kept(rng, dtype, view):
    x = normal(rng, dtype, T * K)
    x[3] = np.nan
    return view(x), view(keys(rng)), E


@case
def add_along_rows(rng, dtype, view):
    return view(normal(rng, dtype, T, 6)), view(rng.integers(0, E, (T, 6))), E


@case
def uniforms(rng, dtype, view):
    return view(np.array([0xA4093822, 0x299F31D0])), 3, 1001


@case
def uniforms__none(rng, dtype, view):
    return np.array([1, 2]), 0, 0


@case
def where_true(rng, dtype, view):
    return (view(rng.random(T) < 0.5),)


@case
def to_host(rng, dtype, view):
    return (view(normal(rng, dtype, T)),)


@case
def add_rows(rng, dtype, view):
    return view(normal(rng, dtype, T * K, D)), view(rng.integers(0, T, T * K)), T


@case
def add_rows__all_to_one(rng, dtype, view):
    return view(normal(rng, dtype, T * K, D)), np.full(T * K, 2), E


@case
def add_rows__none(rng, dtype, view):
    return np.zeros((0, D), dtype), np.zeros(0, int), T


@case
def take_rows(rng, dtype, view):
    return view(normal(rng, dtype, T, D)), view(rng.integers(0, T, T * K))


@case
def take_rows__of_integers(rng, dtype, view):
    return view(rng.integers(0, 99, (T, 3))), view(rng.integers(0, T, T * K))


@case
def take_rows__of_more_axes(rng, dtype, view):
    return view(normal(rng, dtype, T, 3, 5)), view(rng.integers(0, T, T * K))


@case
def take_rows__odd(rng, dtype, view):
    return view(normal(rng, dtype, T, ODD)), view(rng.integers(0, T, T * K))


@case
def take_rows__entries(rng, dtype, view):
    return view(normal(rng, dtype, T)), view(rng.integers(0, T, T * K))


@case
def row_products(rng, dtype, view):
    return view(normal(rng, dtype, T, D)), view(normal(rng, dtype, T, D))


@case
def row_products__odd(rng, dtype, view):
    return view(normal(rng, dtype, T, ODD)), view(normal(rng, dtype, T, ODD))


@case
def combine(rng, dtype, view):
    return view(normal(rng, dtype, T * K, D)), view(normal(rng, np.float32, T * K)), view(rng.integers(0, T, T * K)), T


@case
def combine__many_rows(rng, dtype, view):
    return view(normal(rng, dtype, 4000, D)), view(normal(rng, dtype, 4000)), rng.integers(0, 2000, 4000), 2000


@case
def combine__odd(rng, dtype, view):
    return normal(rng, dtype, T * K, ODD), normal(rng, dtype, T * K), rng.integers(0, T, T * K), T


@case
def combine_gradient__odd(rng, dtype, view):
    r, token = normal(rng, dtype, T * K, ODD), rng.integers(0, T, T * K)
    return normal(rng, dtype, T, ODD), r, normal(rng, dtype, T * K), token


@case
def combine_gradient(rng, dtype, view):
    return (
        view(normal(rng, dtype, T, D)),
        view(normal(rng, dtype, T * K, D)),
        view(normal(rng, np.float32, T * K)),
        view(rng.integers(0, T, T * K)),
    )


@case
def product(rng, dtype, view):
    return view(normal(rng, dtype, T, D)), view(normal(rng, dtype, D, F))


@case
def product__tall(rng, dtype, view):
    return view(normal(rng, dtype, 700, 64)), view(normal(rng, dtype, 96, 64)).T


@case
def product__wide(rng, dtype, view):
    return view(normal(rng, dtype, 700, 64)).T, view(normal(rng, dtype, 700, 300))


@case
def wide_product(rng, dtype, view):
    return view(normal(rng, dtype, T, D)), view(normal(rng, dtype, D, F)), {"dtype": None}


@case
def wide_product__wide_rows(rng, dtype, view):
    return view(normal(rng, np.float32, 700, 24)), view(normal(rng, dtype, 24, 64)), {"dtype": dtype}


@case
def wide_product__wide_columns(rng, dtype, view):
    return view(normal(rng, np.float32, 700, 24).T), view(normal(rng, dtype, 700, 64)), {"dtype": np.float32}


@case
def add(rng, dtype, view):
    return view(normal(rng, dtype, 37, 51)), view(normal(rng, dtype, 37, 51))


@case
def add__broadcast(rng, dtype, view):
    return view(normal(rng, dtype, 37, 51)), view(normal(rng, dtype, 51))


@case
def add__number(rng, dtype, view):
    return 2.5, view(normal(rng, dtype, 37, 51))


@case
def reshaped(rng, dtype, view):
    return view(normal(rng, dtype, 6, 8)), (4, 12)


@case
def reshaped__axes_swapped(rng, dtype, view):
    return view(normal(rng, dtype, 2, 5, 3, 16)).swapaxes(1, 2), (6, 80)


@case
def reshaped__axes_of_a_matrix_swapped(rng, dtype, view):
    return view(normal(rng, dtype, 40, 24)).T, (30, 32)


@case
def matmul(rng, dtype, view):
    return view(normal(rng, dtype, 3, 1, T, D)), view(normal(rng, dtype, 2, D, F))


@case
def matmul__large(rng, dtype, view):
    return view(normal(rng, dtype, 3, 200, 300)), view(normal(rng, dtype, 3, 300, 100))


@case
def matmul__vector_by_stack(rng, dtype, view):
    return view(normal(rng, dtype, D)), view(normal(rng, dtype, 3, D, F))


@case
def grouped_product(rng, dtype, view):
    return view(normal(rng, dtype, 74, D)), normal(rng, dtype, E, F, D), UNEVEN


@case
def grouped_product__one_takes_all(rng, dtype, view):
    return view(normal(rng, dtype, 74, D)), normal(rng, dtype, E, F, D), ONE_TAKES_ALL


@case
def grouped_product__large(rng, dtype, view):
    return view(normal(rng, dtype, 1025, 64)), normal(rng, dtype, E, 96, 64), LARGE


@case
def grouped_product__no_rows(rng, dtype, view):
    return normal(rng, dtype, 0, D), normal(rng, dtype, E, F, D), ALL_EMPTY


@case
def grouped_product_input_gradient(rng, dtype, view):
    return view(normal(rng, dtype, 74, F)), normal(rng, dtype, E, F, D), UNEVEN


@case
def grouped_product_input_gradient__large(rng, dtype, view):
    return view(normal(rng, dtype, 1025, 96)), normal(rng, dtype, E, 96, 64), LARGE


@case
def grouped_product_weight_gradient(rng, dtype, view):
    return view(normal(rng, dtype, 74, F)), view(normal(rng, dtype, 74, D)), UNEVEN


@case
def grouped_product_weight_gradient__one_takes_all(rng, dtype, view):
    return view(normal(rng, dtype, 74, F)), view(normal(rng, dtype, 74, D)), ONE_TAKES_ALL


@case
def grouped_product_weight_gradient__large(rng, dtype, view):
    return view(normal(rng, dtype, 1025, 600)), view(normal(rng, dtype, 1025, 72)), LARGE


@case
def grouped_product__rows_of_no_expert(rng, dtype, view):
    return view(normal(rng, dtype, 200, D)), normal(rng, dtype, E, F, D), UNEVEN


@case
def grouped_product__all_rows_of_no_expert(rng, dtype, view):
    return view(normal(rng, dtype, 74, D)), normal(rng, dtype, E, F, D), ALL_EMPTY


@case
def grouped_product_input_gradient__rows_of_no_expert(rng, dtype, view):
    return view(normal(rng, dtype, 200, F)), normal(rng, dtype, E, F, D), UNEVEN


@case
def grouped_product_weight_gradient__rows_of_no_expert(rng, dtype, view):
    return view(normal(rng, dtype, 200, F)), view(normal(rng, dtype, 200, D)), UNEVEN


@case
def sum_of_expert_rows(rng, dtype, view):
    return view(normal(rng, dtype, 74, F)), UNEVEN


@case
def sum_of_expert_rows__rows_of_no_expert(rng, dtype, view):
    return view(normal(rng, dtype, 200, F)), UNEVEN


@case
def add_expert_bias(rng, dtype, view):
    return view(normal(rng, dtype, 74, F)), view(normal(rng, dtype, E, F)), UNEVEN


@case
def add_expert_bias__rows_of_no_expert(rng, dtype, view):
    return view(normal(rng, dtype, 200, F)), view(normal(rng, dtype, E, F)), UNEVEN


@case
def silu(rng, dtype, view):
    return (view(normal(rng, dtype, 3, 7, D)),)


@case
def silu__extreme(rng, dtype, view):
    return (np.array([-1e4, -100, 0, 100, 1e4], dtype),)


@case
def silu_gradient(rng, dtype, view):
    return view(normal(rng, dtype, T, D)), view(normal(rng, dtype, T, D))


@case
def swiglu(rng, dtype, view):
    return view(normal(rng, dtype, 3, 7, D)), view(normal(rng, dtype, 3, 7, D))


@case
def swiglu__halves(rng, dtype, view):
    h = normal(rng, dtype, 3000, 2 * F)
    return h[:, :F], h[:, F:]


@case
def swiglu__odd_halves(rng, dtype, view):
    h = normal(rng, dtype, T, 2 * ODD)
    return h[:, :ODD], h[:, ODD:]


@case
def swiglu__no_rows(rng, dtype, view):
    return np.zeros((0, F), dtype), np.zeros((0, F), dtype)


@case
def swiglu_gradient(rng, dtype, view):
    return tuple(view(normal(rng, dtype, T, D)) for _ in range(3))


@case
def swiglu_gradient__halves(rng, dtype, view):
    h = normal(rng, dtype, 3000, 2 * F)
    return view(normal(rng, dtype, 3000, F)), h[:, :F], h[:, F:]


@case
def swiglu_gradient__odd_halves(rng, dtype, view):
    h = normal(rng, dtype, T, 2 * ODD)
    return view(normal(rng, dtype, T, ODD)), h[:, :ODD], h[:, ODD:]


@case
def normal_cdf(rng, dtype, view):
    return (view(normal(rng, dtype, T, D)),)


@case
def gelu(rng, dtype, view):
    return view(normal(rng, dtype, T, D)), False


@case
def gelu__tanh(rng, dtype, view):
    return view(normal(rng, dtype, T, D)), True


@case
def gelu_gradient(rng, dtype, view):
    return view(normal(rng, dtype, T, D)), view(normal(rng, dtype, T, D)), False


@case
def gelu_gradient__tanh(rng, dtype, view):
    return view(normal(rng, dtype, T, D)), view(normal(rng, dtype, T, D)), True


@case
def softmax(rng, dtype, view):
    return (view(normal(rng, dtype, 3, 7, D)),)


@case
def softmax__minus_infinity(rng, dtype, view):
    x = few_values(rng, dtype, T, D)
    x[:, 0] = 1
    return (view(x),)


@case
def softmax__nan_in_a_row(rng, dtype, view):
    x = normal(rng, dtype, T, D)
    x[3, 5] = np.nan
    return (view(x),)


@case
def softmax__long_rows_and_many(rng, dtype, view):
    return (view(normal(rng, dtype, 300, 1000)),)


@case
def softmax_gradient(rng, dtype, view):
    return view(normal(rng, dtype, T, D)), view(registry["softmax"].definition(normal(rng, dtype, T, D)))


@case
def log_softmax(rng, dtype, view):
    return (view(30 * normal(rng, dtype, T, D)),)


@case
def log_softmax_gradient(rng, dtype, view):
    return view(normal(rng, dtype, T, D)), view(registry["log_softmax"].definition(normal(rng, dtype, T, D)))


@case
def cross_entropy(rng, dtype, view):
    return view(normal(rng, dtype, T, D)), view(rng.integers(0, D, T))


@case
def cross_entropy_gradient(rng, dtype, view):
    p = registry["softmax"].definition(normal(rng, dtype, T, D))
    return view(normal(rng, dtype, T)), p, view(rng.integers(0, D, T))


@case
def rms_norm(rng, dtype, view):
    return view(normal(rng, dtype, 3, 7, D)), view(normal(rng, dtype, D)), 1e-6


@case
def rms_norm__long_rows(rng, dtype, view):
    return view(normal(rng, dtype, 3, 5000)), view(normal(rng, dtype, 5000)), 1e-6


@case
def rms_norm__zero_row(rng, dtype, view):
    return np.zeros((2, D), dtype), normal(rng, dtype, D), 1e-6


@case
def rms_norm_gradient(rng, dtype, view):
    x = normal(rng, dtype, 3, 700, D)
    _, r = registry["rms_norm"].definition(x, np.ones(D, dtype), 1e-6)
    return view(normal(rng, dtype, 3, 700, D)), view(x), r, view(normal(rng, dtype, D))


@case
def rotate(rng, dtype, view):
    angle = normal(rng, dtype, 7, D // 2)
    return view(normal(rng, dtype, 2, 3, 7, D)), np.cos(angle), np.sin(angle)


def heads(rng, dtype, length, num_keys, groups=2):
    q = normal(rng, dtype, 2, 3, groups * length, 8)
    return q, normal(rng, dtype, 2, 3, num_keys, 8), normal(rng, dtype, 2, 3, num_keys, 8)


@case
def causal_attention(rng, dtype, view):
    return (*map(view, heads(rng, dtype, 6, 6)), 6, 0.3)


@case
def causal_attention__more_keys_than_queries(rng, dtype, view):
    return (*map(view, heads(rng, dtype, 1, 9)), 1, 0.3)


@case
def causal_attention__long(rng, dtype, view):
    return (*map(view, heads(rng, dtype, 100, 100)), 100, 0.3)


@case
def causal_attention__first_keys_and_sinks(rng, dtype, view):
    q, k, v = heads(rng, dtype, 5, 7)
    first = np.array([0, 1, 0, 5, 6])
    return view(q), view(k), view(v[..., :4]), 5, 0.3, first, view(normal(rng, dtype, 3, 10))


@case
def causal_attention__values_narrower_than_keys(rng, dtype, view):
    q, k, v = heads(rng, dtype, 5, 7)
    return view(q), view(k), view(v[..., :4]), 5, 0.3, np.array([0, 1, 2, 3, 4]), None


@case
def causal_attention_gradient(rng, dtype, view):
    q, k, v = heads(rng, dtype, 6, 6)
    o, e, total = registry["causal_attention"].definition(q, k, v, 6, 0.3)
    return view(normal(rng, dtype, *q.shape)), view(q), view(k), view(v), o, e, total, 6, 0.3


@case
def causal_attention_gradient__sinks(rng, dtype, view):
    q, k, v = heads(rng, dtype, 5, 7)
    sinks, v = normal(rng, dtype, 3, 10), v[..., :4]
    o, e, total = registry["causal_attention"].definition(q, k, v, 5, 0.3, np.array([0, 1, 0, 5, 6]), sinks)
    return view(normal(rng, dtype, *o.shape)), view(q), view(k), view(v), o, e, total, 5, 0.3


@case
def weight_product(rng, dtype, view):
    return view(normal(rng, dtype, 3, 64)), formats.quantise(normal(rng, np.float32, 37, 64), "float32")


def weights_in(name, *shape, width=96, **settings):
    """A case of ``weight_product`` or, with more axes, of its relative."""

    def build(rng, dtype, view):
        weights = formats.quantise(normal(rng, np.float32, *shape, 37, width), name, **settings)
        x = view(normal(rng, dtype, 18, width))
        return (x, weights, rng.integers(0, shape[0], 18)) if shape else (x, weights)

    kernel = "weight_product_of_experts" if shape else "weight_product"
    build.__name__ = "__".join([kernel, name, str(width), *map(str, settings.values())])
    return case(build)


for name in formats.FORMATS:
    weights_in(name)
    weights_in(name, 4)
for name in ("float32", "bfloat16", "fp8"):
    weights_in(name, width=77)
for block in ((16, 32), (3, 40)):
    weights_in("fp8", block=block)
    weights_in("fp8", 3, block=block)


@case
def weight_product__no_rows(rng, dtype, view):
    return np.zeros((0, 64), dtype), formats.quantise(normal(rng, np.float32, 37, 64), "int8")


@case
def grouped_weight_product(rng, dtype, view):
    stack = formats.quantise(normal(rng, np.float32, 5, 37, 64), "float32")
    return view(normal(rng, dtype, 80, 64)), stack, UNEVEN


@case
def grouped_weight_product__all_rows_of_no_expert(rng, dtype, view):
    stack = formats.quantise(normal(rng, np.float32, 5, 37, 64), "int4")
    return view(normal(rng, dtype, 8, 64)), stack, ALL_EMPTY


@case
def grouped_weight_product__large(rng, dtype, view):
    return normal(rng, dtype, 1025, 32), formats.quantise(normal(rng, np.float32, 5, 600, 32), "int8"), LARGE


@case
def weight_product_of_experts(rng, dtype, view):
    stack = formats.quantise(normal(rng, np.float32, 3, 37, 64), "float32")
    return view(normal(rng, dtype, 5, 64)), stack, view(np.array([2, 0, 2, 2, 1]))


@case
def sum_of_squares(rng, dtype, view):
    return ([view(normal(rng, dtype, 300, 700)), normal(rng, dtype, 3), np.zeros((0, 2), dtype)],)


@case
def attend(rng, dtype, view):
    q, k, v = normal(rng, dtype, 5, 6, 16), normal(rng, dtype, 40, 2, 16), normal(rng, dtype, 40, 2, 8)
    return view(q), k, v, np.array([0, 0, 3, 30, 35]), 0.25, None


@case
def attend__sinks_and_few_keys(rng, dtype, view):
    q, k, v = normal(rng, dtype, 1, 4, 16), normal(rng, dtype, 3, 4, 16), normal(rng, dtype, 3, 4, 16)
    return view(q), view(k), view(v), np.array([1]), 0.25, normal(rng, dtype, 4)


@case
def swiglu_of_halves(rng, dtype, view):
    return (view(10 * normal(rng, dtype, 5, 46)),)


@case
def adamw(rng, dtype, view):
    shapes = [(300, 200), (7,), (2, 3, 4)]
    p, grad, m = ([normal(rng, dtype, *shape) for shape in shapes] for _ in range(3))
    v = [x * x for x in m]
    settings = {"betas": (0.9, 0.95), "eps": 1e-8}
    rounded = [np.zeros_like(p[0]), None, np.zeros_like(p[2])]
    return p, [view(g) for g in grad], m, v, [0.1, 0.0, 1.0], rounded, np.array([0.5, 1e-2, 0.1, 0.05]), settings


@case
def adamw__of_a_step_that_failed(rng, dtype, view):
    *arrays, now, settings = adamw(rng, dtype, view)
    return *arrays, now * np.array([np.nan, 1, 1, 1]), settings


def strided(x):
    """An equal array with gaps between its entries, and read-only."""
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    y = wide[..., ::2]
    y.flags.writeable = False
    return y


def on_device(value):
    """The same on a GPU, arrays with the same gaps."""
    import cupy

    if isinstance(value, list | tuple):
        return type(value)(map(on_device, value))
    if isinstance(value, formats.Matrix):
        return type(value)(**on_device(value.arrays), **value.settings)
    if isinstance(value, formats.Stack):
        return formats.Stack(value.kind, on_device(value.arrays), value.settings)
    if isinstance(value, dict):
        return {name: on_device(x) for name, x in value.items()}
    if not isinstance(value, np.ndarray):
        return value
    if value.flags.c_contiguous:
        return cupy.asarray(value)
    if value.T.flags.c_contiguous:
        return cupy.asarray(value.T).T
    wide = cupy.zeros((*value.shape[:-1], 2 * value.shape[-1]), value.dtype)
    y = wide[..., : value.shape[-1]] if value.strides[-1] == value.itemsize else wide[..., ::2]
    y[...] = cupy.asarray(np.ascontiguousarray(value))
    return y


def run(implementation, name, build, dtype, view):
    """The results, and the arguments afterwards, since some kernels write into them; all on the host."""
    arguments = list(build(np.random.default_rng(0), np.dtype(dtype), view))
    settings = arguments.pop() if isinstance(arguments[-1], dict) else {}
    if implementation == "cupy":
        arguments = on_device(arguments)
    with (
        np.errstate(invalid="ignore"),  # NumPy warns of NaN in maximum.at
        contextlib.nullcontext() if implementation == "cupy" else kernels.use(implementation),
    ):
        results = registry[name](*arguments, **settings)
    return leaves([results, [] if name == "add_expert_bias" else arguments])  # which may overwrite its input


def leaves(value):
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in leaves(part)]
    if value is None:
        return []
    if isinstance(value, formats.Matrix | formats.Stack):
        return leaves(list(value.arrays.values()))
    return [value.get() if type(value).__module__.startswith("cupy") else value]


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["contiguous", "strided"])
@pytest.mark.parametrize(("name", "build"), [c for cases in CASES.values() for c in cases])
def test_agrees_with_the_definition(name, build, layout, dtype, other):
    view = strided if layout == "strided" else (lambda x: x)
    expected = run("numpy", name, build, dtype, view)
    actual = run(other, name, build, dtype, view)
    if (name, other) == ("where_true", "cupy"):  # the one kernel that is not the same there
        expected = [np.arange(T), expected[-1], expected[-1]]
    tolerance = {"rtol": 3e-5, "atol": 3e-5} if dtype == "float32" else {"rtol": 1e-11, "atol": 1e-11}
    for a, e in zip(actual, expected, strict=True):
        assert type(a) is type(e)
        if isinstance(e, np.ndarray):
            assert (a.shape, a.dtype) == (e.shape, e.dtype)
        scale = max(1.0, float(np.abs(e[np.isfinite(e)]).max(initial=0))) if isinstance(e, np.ndarray) else abs(e)
        np.testing.assert_allclose(a, e, rtol=tolerance["rtol"], atol=tolerance["atol"] * scale)


NOT_NARROW = {"adamw", "adamw__of_a_step_that_failed", "where_true"}  # it has float32 masters; no floats
NARROW = [c for cases in CASES.values() for c in cases if c.id not in NOT_NARROW]


@pytest.mark.gpu
@pytest.mark.parametrize("layout", ["contiguous", "strided"])
@pytest.mark.parametrize(("name", "build"), NARROW)
def test_bfloat16_on_a_gpu_agrees_with_the_definition(name, build, layout):
    import ml_dtypes

    view = strided if layout == "strided" else (lambda x: x)
    expected = run("numpy", name, build, ml_dtypes.bfloat16, view)
    actual = run("cupy", name, build, ml_dtypes.bfloat16, view)
    for a, e in zip(actual, expected, strict=True):
        if not isinstance(e, np.ndarray):
            assert a == pytest.approx(e, rel=1e-2)
            continue
        assert a.shape == e.shape
        # what is wide on a CPU alone:
        assert a.dtype == e.dtype or name in ("causal_attention", "causal_attention_gradient", "combine_gradient")
        a, e = a.astype(np.float64), e.astype(np.float64)
        scale = np.abs(e[np.isfinite(e)]).max(initial=0)
        np.testing.assert_allclose(a, e, rtol=1e-2, atol=1e-2 * scale)


def test_every_kernel_has_a_case():
    assert formats
    assert inference
    assert models
    assert training  # so that all definitions are registered
    assert set(CASES) == set(registry)


@pytest.mark.parametrize("other", ["on_numba", "on_cupy"])
def test_every_file_has_every_kernel_with_the_same_parameters(other):
    """Read, not imported, so that it needs neither numba nor a GPU."""
    tree = ast.parse(Path(kernels.__file__).with_name(f"{other}.py").read_text())
    file = {n.name: signature(n) for n in tree.body if type(n) is ast.FunctionDef and not n.name.startswith("_")}
    as_defined = [ast.literal_eval(n.value) for n in tree.body if ast.unparse(n).startswith("AS_DEFINED")]
    definitions = {name: signature(source_of(kernel.definition)) for name, kernel in registry.items()}
    lacking = sorted(definitions.keys() - file.keys())
    assert lacking == sorted(as_defined[0] if as_defined else []), f"{other} lacks {', '.join(lacking)}"
    assert {name: definitions.get(name) for name in file} == file


def source_of(function):
    return ast.parse(inspect.getsource(inspect.unwrap(function))).body[0]


def signature(function):
    return f"{ast.unparse(function.args)} -> {ast.unparse(function.returns)}"


def test_two_kernels_of_one_name_are_refused():
    def softmax(x):
        return x

    with pytest.raises(ValueError, match=r"the kernel softmax is defined twice, in moe_numpy\.ops\.activations and in"):
        kernels.kernel(softmax)
