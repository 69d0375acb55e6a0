import numpy as np
import pytest
from by_hand import expert, sigmoid
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_numpy.autodiff import Tensor, decisions
from moe_numpy.moe.experts import KINDS, ClampedSwiGLU, GroupedAffine, WithZeroExperts, make_experts
from moe_numpy.nn.sizes import require_sizes

D, F, E = 4, 3, 3


def make(kind, dtype=np.float64, seed=0):
    experts = make_experts(kind, E, D, F, rng=np.random.default_rng(seed), dtype=dtype)
    for i, parameter in enumerate(experts.parameters()):  # biases too
        parameter.data += 0.3 * np.random.default_rng(i).standard_normal(parameter.shape).astype(dtype)
    return experts


def rows(n, dtype=np.float64, scale=1.0):
    return Tensor(scale * np.random.default_rng(5).standard_normal((n, D)).astype(dtype), requires_grad=True)


@settings(deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.lists(st.integers(0, 4), min_size=E, max_size=E), st.sampled_from([1, 20]))
def test_all_at_once_each_alone_and_by_hand_agree(kind, counts, scale):
    experts = make(kind)
    x = rows(sum(counts), scale=scale)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    y = experts(x, offsets)
    owner = np.repeat(np.arange(E), counts)
    by_hand = np.array([expert(experts, e, row) for e, row in zip(owner, x.data, strict=True)]).reshape(-1, D)
    np.testing.assert_allclose(y.data, by_hand, rtol=1e-9, atol=1e-12)
    cotangent = np.random.default_rng(6).standard_normal(y.shape)
    y.backward(cotangent)
    together = {name: p.grad for name, p in experts.named_parameters()} | {"x": x.grad}

    experts.zero_grad()
    x.grad = None
    for e in range(E):
        mine = slice(int(offsets[e]), int(offsets[e + 1]))
        alone = experts.one(e, x[mine])
        np.testing.assert_allclose(alone.data, y.data[mine], rtol=1e-9, atol=1e-12)
        alone.backward(cotangent[mine])
    for name, tensor in (*experts.named_parameters(), ("x", x)):
        np.testing.assert_allclose(together[name], tensor.grad, rtol=1e-8, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_in_float32_out(kind):
    experts, x = make(kind, np.float32), rows(4, np.float32)
    y = experts(x, np.array([0, 2, 2, 4]))
    y.backward(np.ones_like(y.data))
    assert {y.dtype, x.grad.dtype, *(p.grad.dtype for p in experts.parameters())} == {np.dtype(np.float32)}


def test_grouped_affine_adds_the_bias_of_the_group_once():
    weight, bias = np.zeros((2, 3, D)), np.array([[1.0, 2, 3], [4, 5, 6]])
    y = GroupedAffine.apply(rows(3), weight, bias, np.array([0, 1, 3]))
    assert y.data.tolist() == [[1, 2, 3], [4, 5, 6], [4, 5, 6]]


def test_gpt_oss_clamps_the_gate_above_and_the_rest_on_both_sides():
    h = np.array([[8.0, -9.0, -8.0, 9.0, 1.0, 2.0]])  # gate, up, gate, up, gate, up
    tensor = Tensor(h, requires_grad=True)
    with decisions.recording() as recorded:
        a = ClampedSwiGLU.apply(tensor)
    gate, up = np.array([7.0, -8.0, 1.0]), np.array([-7.0, 7.0, 2.0])
    np.testing.assert_allclose(a.data[0], (up + 1) * gate * sigmoid(1.702 * gate))
    a.backward(np.ones((1, 3)))
    zero = tensor.grad[0] == 0
    assert zero.tolist() == [True, True, False, True, False, False]
    assert recorded[0].explain(3) == "entry 3 is near the limit of 7.0"
    assert recorded[0].chosen.tolist() == [True, False, False, True, True, False]  # gates first, then ups


@pytest.mark.parametrize("kind", KINDS)
def test_each_expert_alone_has_the_derivative_of_the_hand_written_network(kind):
    """Slopes of plain array code, so that forward and backward cannot share a mistake."""
    experts, x = make(kind), rows(1, scale=3)
    cotangent = np.random.default_rng(7).standard_normal(D)
    experts(x, np.array([0, 0, 1, 1])).backward(cotangent[None])
    for tensor in (x, *experts.parameters()):
        for i in np.ndindex(tensor.shape):
            before, sides = tensor.data[i], []
            for step in (1e-6, -1e-6):
                tensor.data[i] = before + step
                sides.append(cotangent @ expert(experts, 1, x.data[0]))
            tensor.data[i] = before
            assert tensor.grad[i] == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=1e-6, rel=1e-5)


def test_zero_experts_return_their_input():
    experts = WithZeroExperts(make("swiglu"), E)
    x = rows(5)
    y = experts(x, np.array([0, 1, 1, 2, 4, 5]))
    np.testing.assert_array_equal(y.data[2:], x.data[2:])
    np.testing.assert_allclose(y.data[1], expert(experts, 2, x.data[1]))
    y.backward(np.full((5, D), 2.0))
    np.testing.assert_array_equal(x.grad[2:], 2)
    assert experts.one(3, x) is x
    np.testing.assert_array_equal(experts.one(2, x[1:2]).data, y.data[1:2])
    assert experts.num_parameters() == make("swiglu").num_parameters()


def test_every_kind_has_the_parameters_that_it_documents():
    shapes = {kind: {name: p.shape for name, p in make(kind).named_parameters()} for kind in KINDS}
    mlp = {"first": (E, F, D), "first_bias": (E, F), "second": (E, D, F), "second_bias": (E, D)}
    assert shapes == {
        "swiglu": {"gate_up": (E, 2 * F, D), "down": (E, D, F)},
        "relu": mlp,
        "gelu": mlp,
        "gpt_oss": {
            "gate_up": (E, 2 * F, D),
            "gate_up_bias": (E, 2 * F),
            "down": (E, D, F),
            "down_bias": (E, D),
        },
    }


def test_an_unknown_kind_and_a_size_of_zero_are_named():
    with pytest.raises(ValueError, match="experts must be one of swiglu, relu, gelu, gpt_oss, got 'tanh'"):
        make("tanh")
    with pytest.raises(ValueError, match="d_ff must be at least 1, got 0"):
        require_sizes(d_model=1, d_ff=0)
