"""The page to begin with computes what the layer computes: the output, the loss, and every gradient."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_numpy.autodiff import Tensor
from moe_numpy.gradcheck import gradcheck
from moe_numpy.moe import MoE, recipes
from moe_numpy.moe.one_page import backward, forward


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    num_tokens=st.integers(1, 12),
    num_experts=st.integers(1, 6),
    factor=st.sampled_from([0.3, 1.0, 8.0]),
    data=st.data(),
)
def test_it_equals_the_layer(seed, num_tokens, num_experts, factor, data):
    top_k = data.draw(st.integers(1, num_experts))
    rng = np.random.default_rng(seed)
    recipe = recipes.mixtral(top_k=top_k, capacity_factor=factor, balance=0.1)
    layer = MoE(5, 3, num_experts, recipe, rng=rng, dtype=np.float64)
    x = Tensor(rng.standard_normal((num_tokens, 5)), requires_grad=True)
    y, routing = layer(x)
    dy = rng.standard_normal(y.shape)
    ((y * dy).sum() + routing.auxiliary_loss).backward()

    gate_up = layer.experts.gate_up
    gate, up = gate_up.data[:, :3], gate_up.data[:, 3:]
    capacity = routing.statistics.dropped.capacity
    page_y, loss, saved = forward(
        x.data, layer.router.weight.data, gate, up, layer.experts.down.data, top_k=top_k, capacity=capacity
    )
    dx, d_router, d_gate, d_up, d_down = backward(dy, 0.1, saved)

    close = {"rtol": 1e-10, "atol": 1e-12}
    np.testing.assert_allclose(page_y, y.data, **close)
    np.testing.assert_allclose(loss, routing.losses["balance"].item(), **close)
    np.testing.assert_allclose(dx, x.grad, **close)
    np.testing.assert_allclose(d_router, layer.router.weight.grad, **close)
    np.testing.assert_allclose(np.concatenate([d_gate, d_up], axis=1), gate_up.grad, **close)
    np.testing.assert_allclose(d_down, layer.experts.down.grad, **close)


def test_some_tokens_are_dropped_and_some_experts_idle():
    """The cases above are not all easy ones."""
    rng = np.random.default_rng(0)
    x, router = rng.standard_normal((8, 5)), rng.standard_normal((4, 5))
    gate, up, down = rng.standard_normal((4, 3, 5)), rng.standard_normal((4, 3, 5)), rng.standard_normal((4, 5, 3))
    router[3] = 0
    x[:, 0], router[:3, 0] = 3, 9  # the first three are everybody's best
    _, _, saved = forward(x, router, gate, up, down, top_k=2, capacity=2)
    served = [len(mine) for mine, *_ in saved["experts"]]
    assert max(served) == 2
    assert served[3] == 0
    assert sum(served) < len(saved["token"])


def test_it_passes_finite_differences(make_function):
    rng = np.random.default_rng(1)
    shapes = (7, 5), (4, 5), (4, 3, 5), (4, 3, 5), (4, 5, 3)
    report = gradcheck(make_function.apply, [rng.standard_normal(shape) for shape in shapes])
    report.raise_if_failed()
    assert report.compared == sum(map(int, map(np.prod, shapes)))


@pytest.fixture
def make_function():
    from moe_numpy.autodiff import Function

    class _OnePage(Function):
        def forward(self, *arrays):
            y, loss, self.kept = forward(*arrays, top_k=2, capacity=3)
            return y, np.asarray(loss)

        def backward(self, dy, dloss):
            return backward(dy, float(dloss), self.kept)

    return _OnePage
