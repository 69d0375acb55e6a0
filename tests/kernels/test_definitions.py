"""Definitions against loops over single entries; ties, experts without rows and strides included."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_numpy import models
from moe_numpy.kernels import registry

assert models  # so that all definitions are registered
k = SimpleNamespace(**{name: kernel.definition for name, kernel in registry.items()})

keys = st.integers(1, 5).flatmap(
    lambda n: st.tuples(st.lists(st.integers(0, n - 1), max_size=30).map(lambda a: np.array(a, np.int64)), st.just(n))
)


@settings(deadline=None)
@given(st.integers(0, 6), st.integers(1, 6), st.data())
def test_top_k_is_the_first_of_a_sorted_list_with_ties_to_the_lowest_index(num_tokens, num_experts, data):
    top_k = data.draw(st.integers(1, num_experts))
    few_values = data.draw(
        st.lists(
            st.sampled_from([-1.0, 0.0, 0.5]),
            min_size=num_tokens * num_experts,
            max_size=num_tokens * num_experts,
        )
    )
    scores = np.array(few_values).reshape(num_tokens, num_experts)
    expected = [sorted(range(num_experts), key=lambda e, row=row: (-row[e], e))[:top_k] for row in scores]
    assert k.top_k(scores, top_k).tolist() == expected


def test_top_k_puts_minus_infinity_last_and_never_twice():
    assert k.top_k(np.array([[-np.inf, 1.0, -np.inf]]), 3).tolist() == [[1, 0, 2]]


@settings(deadline=None)
@given(keys)
def test_position_by_key_counts_earlier_equal_keys(case):
    key, n = case
    assert k.position_by_key(key, n).tolist() == [key[:i].tolist().count(x) for i, x in enumerate(key.tolist())]


@settings(deadline=None)
@given(keys)
def test_stable_order_and_offsets_describe_the_groups(case):
    key, n = case
    order, offsets = k.stable_order(key, n), k.offsets_of(k.count(key, n))
    for group in range(n):
        assert order[offsets[group] : offsets[group + 1]].tolist() == [i for i, x in enumerate(key) if x == group]


def test_stable_order_of_keys_that_need_more_than_16_bits():
    key = np.array([40_000, 3, 40_000, 32_768, 3])
    assert k.stable_order(key, 50_000).tolist() == [1, 4, 3, 0, 2]


@settings(deadline=None)
@given(keys, st.integers(1, 4))
def test_add_rows_loses_no_duplicate(case, width):
    key, n = case
    rows = np.random.default_rng(len(key)).standard_normal((len(key), width))
    expected = np.zeros((n, width))
    for i, row in zip(key, rows, strict=True):
        expected[i] += row
    np.testing.assert_array_equal(k.add_rows(rows, key, n), expected)


@settings(deadline=None)
@given(keys)
def test_sum_by_key_keeps_the_dtype(case):
    key, n = case
    values = np.random.default_rng(0).standard_normal(len(key)).astype(np.float32)
    total = k.sum_by_key(values, key, n)
    assert total.dtype == np.float32
    np.testing.assert_allclose(total, [values[key == i].sum() for i in range(n)], rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(keys)
def test_max_by_key_is_the_largest_of_each_key_or_minus_infinity(case):
    key, n = case
    values = np.random.default_rng(0).standard_normal(len(key)).astype(np.float32)
    largest = k.max_by_key(values, key, n)
    assert largest.dtype == np.float32
    assert largest.tolist() == [max(values[key == i].tolist(), default=-np.inf) for i in range(n)]


@settings(deadline=None)
@given(keys)
def test_count_counts(case):
    key, n = case
    assert k.count(key, n).tolist() == [key.tolist().count(i) for i in range(n)]


def test_add_along_rows_adds_every_value_of_an_entry_named_twice():
    y = k.add_along_rows(np.array([[2, 3], [4, 5]], np.float32), np.array([[1, 1], [2, 0]]), 3)
    assert y.tolist() == [[0, 5, 0], [5, 0, 4]]
    assert y.dtype == np.float32


def test_tokens_and_ranks_count_rows_and_columns():
    token, rank = k.tokens_and_ranks(np.zeros((2, 3), int))
    assert token.tolist() == [0, 0, 0, 1, 1, 1]
    assert rank.tolist() == [0, 1, 2, 0, 1, 2]


def test_to_host_is_the_array_itself():
    x = np.zeros(3)
    assert k.to_host(x) is x


def test_top_k_puts_nan_last():
    assert k.top_k(np.array([[np.nan, 1.0, 2.0], [0.0, np.nan, -1.0]]), 3).tolist() == [[2, 1, 0], [0, 2, 1]]


def test_scatter_undoes_a_permutation_and_leaves_zero_elsewhere():
    order = np.array([2, 0, 1])
    values = np.array([10, 20, 30])
    assert k.scatter(values[order], order, 3).tolist() == [10, 20, 30]
    assert k.scatter(np.array([5.0]), np.array([1]), 3).tolist() == [0, 5, 0]


@pytest.mark.parametrize("counts", [[2, 0, 3], [0, 0, 5], [5, 0, 0], [0, 0, 0], [1, 0, 0]])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("contiguous", [True, False])
def test_grouped_products_against_one_row_at_a_time(counts, dtype, contiguous):
    rng = np.random.default_rng(1)
    num_rows, i, o = sum(counts), 4, 3
    expert = np.repeat(np.arange(3), counts)
    offsets = k.offsets_of(np.array(counts))
    x = rng.standard_normal((num_rows, i)).astype(dtype)
    grad = rng.standard_normal((num_rows, o)).astype(dtype)
    if not contiguous:
        x, grad = np.asfortranarray(x), np.asfortranarray(grad)
    weight = rng.standard_normal((3, o, i)).astype(dtype)
    bias = rng.standard_normal((3, o)).astype(dtype)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-13, "atol": 1e-13}

    y = k.grouped_product(x, weight, offsets)
    dx = k.grouped_product_input_gradient(grad, weight, offsets)
    dw = k.grouped_product_weight_gradient(grad, x, offsets)
    assert y.dtype == dx.dtype == dw.dtype == dtype
    np.testing.assert_allclose(
        y, [weight[e] @ row for e, row in zip(expert, x, strict=True)] or np.zeros((0, o)), **close
    )
    np.testing.assert_allclose(
        dx, [g @ weight[e] for e, g in zip(expert, grad, strict=True)] or np.zeros((0, i)), **close
    )
    for e in range(3):
        np.testing.assert_allclose(dw[e], grad[expert == e].T @ x[expert == e], **close)
        np.testing.assert_allclose(k.sum_of_expert_rows(grad, offsets)[e], grad[expert == e].sum(axis=0), **close)
    np.testing.assert_allclose(k.add_expert_bias(y.copy(), bias, offsets), y + bias[expert], **close)


def test_row_products():
    a, b = np.random.default_rng(2).standard_normal((2, 5, 3))
    np.testing.assert_allclose(k.row_products(a, b), [row @ other for row, other in zip(a, b, strict=True)])


def test_swiglu_is_finite_for_extreme_gates_and_warns_of_nothing():
    gate = np.array([-1e4, -100.0, 0.0, 100.0, 1e4], np.float32)
    up = np.full_like(gate, 2)
    np.testing.assert_allclose(k.swiglu(gate, up), [0, 0, 0, 200, 2e4], atol=1e-30)
    d_gate, d_up = np.split(k.swiglu_gradient(np.ones_like(gate), gate, up), 2)
    np.testing.assert_allclose(d_gate, [0, 0, 1, 2, 2], atol=1e-30)
    np.testing.assert_allclose(d_up, [0, 0, 0, 100, 1e4], atol=1e-30)
