import numpy as np
import pytest
from by_hand import expert, softmax

from moe_numpy.autodiff import Tensor
from moe_numpy.moe import SoftMoE, make_layer, recipes


def make(slots=2, **settings):
    sizes = {"d_model": 3, "d_ff": 5, "num_experts": 4} | settings
    return SoftMoE(**sizes, slots=slots, rng=np.random.default_rng(0), dtype=np.float64)


def draw(*shape):
    return np.random.default_rng(1).standard_normal(shape)


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("experts", ["swiglu", "gelu"])
def test_by_hand(slots, experts):
    """Each sequence by itself, each slot by itself."""
    layer = make(slots, experts=experts)
    x = draw(2, 6, 3)
    y, routing = layer(Tensor(x))
    assert routing is None
    for sequence, answer in zip(x, y.data, strict=True):
        h = sequence @ layer.phi.data.T
        dispatch, combine = softmax(h.T).T, softmax(h)
        slot_inputs = dispatch.T @ sequence
        slot_outputs = np.array([expert(layer.experts, s // slots, row) for s, row in enumerate(slot_inputs)])
        np.testing.assert_allclose(answer, combine @ slot_outputs, rtol=1e-10)


def test_a_sequence_does_not_see_another_but_its_own_future():
    layer, x = make(), draw(2, 6, 3)
    other, later = x.copy(), x.copy()
    other[1] += 1
    later[0, -1] += 1
    y = layer(Tensor(x))[0].data
    np.testing.assert_allclose(layer(Tensor(other))[0].data[0], y[0])
    assert np.abs(layer(Tensor(later))[0].data[0, 0] - y[0, 0]).max() > 1e-4


def test_every_expert_gets_gradient_from_every_token():
    layer = make()
    x = Tensor(draw(1, 3, 3), requires_grad=True)
    y, _ = layer(x)
    y.backward(draw(1, 3, 3))
    assert (np.abs(layer.experts.down.grad).max(axis=(1, 2)) > 0).all()
    assert (np.abs(x.grad) > 0).all()
    assert (np.abs(layer.phi.grad) > 0).all()


def test_all_parameters_are_active_and_the_recipe_makes_the_layer():
    layer = make(slots=2)
    assert layer.active_parameters() == layer.num_parameters() == 8 * 3 + 4 * 3 * 3 * 5
    made = make_layer(recipes.soft_moe(slots=3), 3, 5, 4, rng=np.random.default_rng(0))
    assert isinstance(made, SoftMoE)
    assert made.phi.shape == (12, 3)
    assert made(Tensor(draw(2, 0, 3)[:0].reshape(0, 4, 3).astype(np.float32)))[0].shape == (0, 4, 3)


def test_float32_in_float32_out():
    layer = make_layer(recipes.soft_moe(), 3, 5, 4, rng=np.random.default_rng(0))
    x = Tensor(draw(2, 4, 3).astype(np.float32), requires_grad=True)
    y, _ = layer(x)
    y.backward(np.ones_like(y.data))
    assert {y.dtype, x.grad.dtype, *(p.grad.dtype for p in layer.parameters())} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slots": 0}, "slots must be at least 1, got 0"),
        ({"d_model": 0}, "d_model must be at least 1, got 0"),
        ({"num_experts": -1}, "num_experts must be at least 1, got -1"),
        ({"d_ff": 0}, "d_ff must be at least 1, got 0"),
        ({"experts": "relu2"}, "experts must be one of swiglu, relu, gelu, gpt_oss, got 'relu2'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize("shape", [(2, 4, 2), (4, 3), (2, 0, 3)])
def test_a_shape_that_cannot_be_mixed_is_named(shape, unchecked):
    with pytest.raises(ValueError, match=r"x must be \[B, S, d_model=3\] with at least one token .* got shape \("):
        make()(Tensor(np.zeros(shape)))
