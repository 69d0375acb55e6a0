from types import SimpleNamespace

import numpy as np
import pytest
from by_hand import combined
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_numpy.autodiff import Tensor
from moe_numpy.moe.dispatch import STRATEGIES, Combine, Experts, GateMask, GateRows, Permute
from moe_numpy.moe.experts import make_experts
from moe_numpy.moe.routing import Candidates, Routing, Statistics
from moe_numpy.ops import FillPlaces

D = 3


def make_routing(num_tokens, num_experts, pairs, gate, gate_on):
    """The routing that sends these (expert, token) pairs, in this order, with these gate weights."""
    expert, token = (np.array([pair[i] for pair in pairs], int) for i in (0, 1))
    load = np.bincount(expert, minlength=num_experts)
    return Routing(
        token=token,
        expert=expert,
        gate=gate,
        offsets=np.concatenate([[0], np.cumsum(load)]),
        num_tokens=num_tokens,
        gate_on=gate_on,
        losses={},
        auxiliary_loss=None,
        statistics=Statistics(load, np.zeros((len(token), num_experts)), Candidates(token, expert, token)),
        trace=None,
    )


@pytest.fixture(autouse=True)
def _without_a_trace(unchecked):
    """These routings are made by hand and have no trace."""


@settings(deadline=None)
@given(
    num_tokens=st.integers(0, 6),
    num_experts=st.integers(1, 4),
    gate_on=st.sampled_from(["output", "input"]),
    kind=st.sampled_from(["swiglu", "gpt_oss"]),
    data=st.data(),
)
def test_any_list_of_assignments_is_computed_as_by_hand_by_every_strategy(num_tokens, num_experts, gate_on, kind, data):
    possible = [(e, t) for e in range(num_experts) for t in range(num_tokens)]
    pairs = sorted(data.draw(st.sets(st.sampled_from(possible)) if possible else st.just(set())))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    experts = make_experts(kind, num_experts, D, 4, rng=rng, dtype=np.float64)
    x = Tensor(rng.standard_normal((num_tokens, D)), requires_grad=True)
    w = Tensor(rng.standard_normal(len(pairs)), requires_grad=True)
    w.data[:1] = 0  # a gate weight of zero is still one
    routing = make_routing(num_tokens, num_experts, pairs, w, gate_on)
    expected = combined(experts, x.data, routing)
    cotangent = rng.standard_normal(x.shape)
    gradients = {}
    for name, dispatch in STRATEGIES.items():
        for tensor in (x, w, *experts.parameters()):
            tensor.grad = None
        y = dispatch(x, routing, experts)
        np.testing.assert_allclose(y.data, expected, rtol=1e-9, atol=1e-12, err_msg=name)
        y.backward(cotangent)
        gradients[name] = [tensor.grad for tensor in (x, w, *experts.parameters())]
    for name, others in gradients.items():
        for one, other in zip(gradients["loop"], others, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("gate_on", ["output", "input"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["token", "gate", "expert", "cotangent"])
def test_what_is_not_finite_reaches_only_the_tokens_that_it_belongs_to(where, value, gate_on):
    pairs = [(0, 0), (0, 2), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1)]
    concerned = {"token": [2], "gate": [2], "expert": [0, 1], "cotangent": [2]}[where]
    results = {}
    for name, dispatch in STRATEGIES.items():
        rng = np.random.default_rng(0)
        experts = make_experts("relu", 3, D, 4, rng=rng, dtype=np.float64)
        x, cotangent, gates = rng.standard_normal((4, D)), rng.standard_normal((4, D)), rng.uniform(0.1, 1, 7)
        gates[0] = 0  # a gate weight of zero is still one
        if where == "token":
            x[2, 1] = value
        elif where == "gate":
            gates[3] = value
        elif where == "expert":
            experts.second.data[2, 0, 0] = value
        else:
            cotangent[2, 0] = value
        x, gates = Tensor(x, requires_grad=True), Tensor(gates, requires_grad=True)
        with np.errstate(all="ignore"):
            y = dispatch(x, make_routing(4, 3, pairs, gates, gate_on), experts)
            y.backward(cotangent)
        assert np.isfinite(np.delete(y.data, concerned, axis=0)).all(), name
        assert np.isfinite(np.delete(x.grad, concerned, axis=0)).all(), name
        results[name] = [y.data, x.grad, gates.grad, *(p.grad for p in experts.parameters())]
    assert not all(np.isfinite(array).all() for array in results["loop"])
    for name, others in results.items():
        for one, other in zip(results["loop"], others, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("dispatch", STRATEGIES.values(), ids=STRATEGIES)
def test_float32_gates_do_not_widen_narrower_tokens(dispatch):
    """A router works in float32 even where the model is in half precision; its gate weights must not leak that."""
    rng = np.random.default_rng(0)
    experts = make_experts("swiglu", 2, D, 4, rng=rng, dtype=np.float16)
    x = Tensor(rng.standard_normal((3, D)).astype(np.float16), requires_grad=True)
    w = Tensor(np.array([0.5, 0.25, 0.75], np.float32), requires_grad=True)
    y = dispatch(x, make_routing(3, 2, [(0, 0), (0, 2), (1, 2)], w, "output"), experts)
    y.backward(np.ones_like(y.data))
    assert y.dtype == x.grad.dtype == np.float16
    assert w.grad.dtype == np.float32


def test_a_token_without_assignments_gets_zero_and_gives_no_gradient():
    experts = make_experts("gelu", 2, D, 4, rng=np.random.default_rng(0), dtype=np.float64)
    experts.second_bias.data[:] = 1  # an expert's answer to nothing is not zero
    for dispatch in STRATEGIES.values():
        x = Tensor(np.ones((3, D)), requires_grad=True)
        y = dispatch(x, make_routing(3, 2, [(0, 0), (1, 0)], Tensor(np.ones(2)), "output"), experts)
        y.backward(np.ones((3, D)))
        np.testing.assert_array_equal(y.data[1:], 0)
        np.testing.assert_array_equal(x.grad[1:], 0)
        assert np.abs(y.data[0]).max() > 0


def test_permute_and_combine_by_hand():
    token = np.array([1, 0, 1])
    x = Tensor(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), requires_grad=True)
    r = Permute.apply(x, token)
    assert r.data.tolist() == [[3, 4], [1, 2], [3, 4]]
    w = Tensor(np.array([10.0, 100.0, 1000.0]), requires_grad=True)
    y = Combine.apply(r, w, token, num_tokens=3)
    assert y.data.tolist() == [[100, 200], [3030, 4040], [0, 0]]
    y.backward(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    assert w.grad.tolist() == [4, 1, 4]
    assert x.grad.tolist() == [[100, 0], [0, 1010], [0, 0]]


def test_gated_rows_places_and_masks_by_hand():
    r = Tensor(np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert GateRows.apply(r, Tensor(np.array([2.0, -1.0]))).data.tolist() == [[2, 4], [-3, -4]]
    assert FillPlaces.apply(r, np.array([2, 0]), num_places=3).data.tolist() == [[3, 4], [0, 0], [1, 2]]
    mask = GateMask.apply(
        np.array([0.5, 0.0]), np.array([1, 0]), np.array([0, 2]), np.array([1, 0]), shape=(2, 3, 2)
    ).data
    assert mask[1, 0, 1] == 0.5
    assert np.count_nonzero(mask) == 1


def test_experts_are_recognised_by_their_protocol():
    assert isinstance(make_experts("relu", 2, D, 4, rng=np.random.default_rng(0), dtype=np.float32), Experts)
    assert not isinstance(SimpleNamespace(one=1), Experts)
