import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_numpy.autodiff import Tensor
from moe_numpy.gradcheck import gradcheck
from moe_numpy.ops import CausalAttention, RotaryEmbedding

pytestmark = pytest.mark.no_cover


def attention_by_definition(q, k, v, scale):
    """One query at a time."""
    batch, heads, length, _ = q.shape
    group, earlier = heads // k.shape[1], k.shape[2] - length
    o = np.empty(q.shape)
    for b in range(batch):
        for h in range(heads):
            for i in range(length):
                seen = slice(0, earlier + i + 1)
                scores = k[b, h // group, seen] @ q[b, h, i] * scale
                p = np.exp(scores - scores.max())
                o[b, h, i] = p / p.sum() @ v[b, h // group, seen]
    return o


@settings(deadline=None, max_examples=25)
@given(
    batch=st.integers(1, 2),
    num_kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    length=st.integers(1, 4),
    earlier=st.integers(0, 3),
    scale=st.sampled_from([None, 0.3]),
)
def test_equal_to_the_definition(batch, num_kv_heads, group, length, earlier, scale):
    rng = np.random.default_rng(0)
    q = rng.standard_normal((batch, group * num_kv_heads, length, 4))
    k, v = rng.standard_normal((2, batch, num_kv_heads, length + earlier, 4))
    expected = attention_by_definition(q, k, v, 0.5 if scale is None else scale)
    np.testing.assert_allclose(CausalAttention.apply(q, k, v, scale=scale).data, expected)
    if earlier:  # else the first query sees one key only, and its true gradient is 0; see the next test
        f = lambda q, k, v: CausalAttention.apply(q, k, v, scale=scale)  # noqa: E731
        gradcheck(f, [q, k, v], samples=3).raise_if_failed()


def test_a_single_key_gets_all_the_weight_whatever_its_score(rng):
    q = Tensor(rng.standard_normal((2, 4, 1, 4)), requires_grad=True)
    k, v = (Tensor(x, requires_grad=True) for x in rng.standard_normal((2, 2, 2, 1, 4)))
    g = rng.standard_normal(q.shape)
    y = CausalAttention.apply(q, k, v)
    np.testing.assert_allclose(y.data, v.data.repeat(2, axis=1))
    y.backward(g)
    np.testing.assert_allclose(q.grad, 0, atol=1e-14)
    np.testing.assert_allclose(k.grad, 0, atol=1e-14)
    np.testing.assert_allclose(v.grad, g.reshape(2, 2, 2, 1, 4).sum(2))


def test_a_later_token_changes_no_earlier_output(rng):
    q, k, v = rng.standard_normal((3, 1, 2, 6, 4))
    before = CausalAttention.apply(q, k, v).data
    for x in (q, k, v):
        x[:, :, 4] += 1
    after = CausalAttention.apply(q, k, v).data
    np.testing.assert_array_equal(after[:, :, :4], before[:, :, :4])
    assert (after[:, :, 4:] != before[:, :, 4:]).all()


def test_float32_with_large_scores_stays_finite(rng):
    q, k, v = (Tensor(x, requires_grad=True) for x in 100 * rng.standard_normal((3, 1, 2, 6, 4)).astype(np.float32))
    y = CausalAttention.apply(q, k, v)
    y.backward(np.ones(y.shape, np.float32))
    for array in (y.data, q.grad, k.grad, v.grad):
        assert array.dtype == np.float32
        assert np.isfinite(array).all()


def test_inputs_are_left_alone_and_backward_can_run_twice(rng):
    q, k, v = (Tensor(x, requires_grad=True) for x in rng.standard_normal((3, 1, 2, 3, 4)))
    copies = [x.data.copy() for x in (q, k, v)]
    y = CausalAttention.apply(q, k, v)
    g = rng.standard_normal(y.shape)
    kept = g.copy()
    y.backward(g, retain_graph=True)
    once = [x.grad for x in (q, k, v)]
    y.backward(g)
    np.testing.assert_array_equal(g, kept)
    for x, copy, grad in zip((q, k, v), copies, once, strict=True):
        np.testing.assert_array_equal(x.data, copy)
        np.testing.assert_array_equal(x.grad, 2 * grad)


def test_heads_that_do_not_divide(rng):
    q, k = rng.standard_normal((1, 3, 2, 4)), rng.standard_normal((1, 2, 2, 4))
    with pytest.raises(ValueError, match="query heads must be a multiple of num_kv_heads=2, got 3"):
        CausalAttention.apply(q, k, k)


def test_fewer_keys_than_queries(rng):
    q, k = rng.standard_normal((1, 2, 3, 4)), rng.standard_normal((1, 2, 2, 4))
    with pytest.raises(ValueError, match="at least as many keys as queries, got 2 keys, 3 queries"):
        CausalAttention.apply(q, k, k)


def rotate(x, **settings):
    return RotaryEmbedding.apply(x, **settings).data


def test_rotation_as_complex_numbers(rng):
    x = rng.standard_normal((1, 2, 5, 6))
    z = x[..., :3] + 1j * x[..., 3:]
    position, j = 7 + np.arange(5)[:, None], np.arange(3)
    z = z * np.exp(1j * position * 100.0 ** (-2 * j / 6))
    np.testing.assert_allclose(rotate(x, offset=7, base=100.0), np.concatenate([z.real, z.imag], -1))


def test_inner_products_depend_only_on_the_distance(rng):
    q, k = rng.standard_normal((2, 1, 1, 1, 8))
    near = rotate(q, offset=5) @ rotate(k, offset=3).swapaxes(-1, -2)
    far = rotate(q, offset=1005) @ rotate(k, offset=1003).swapaxes(-1, -2)
    other = rotate(q, offset=5) @ rotate(k, offset=4).swapaxes(-1, -2)
    np.testing.assert_allclose(near, far)
    assert abs(near - other) > 1e-3


def test_position_zero_is_left_alone_and_float32_stays(rng):
    x = rng.standard_normal((1, 1, 2, 4)).astype(np.float32)
    y = rotate(x)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y[:, :, 0], x[:, :, 0])


def test_an_odd_head_width_cannot_be_paired():
    with pytest.raises(ValueError, match="the head width must be even, got 3"):
        rotate(np.ones((1, 1, 2, 3)))
