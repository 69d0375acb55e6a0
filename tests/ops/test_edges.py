"""Nothing to compute, infinities, and values that were not selected."""

import math

import numpy as np
import pytest

from moe_numpy import kernels
from moe_numpy.autodiff import Tensor
from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.moe.experts import ClampedSwiGLU
from moe_numpy.moe.losses import RouterZLoss
from moe_numpy.ops import (
    GELU,
    Affine,
    CausalAttention,
    Dropout,
    LayerNorm,
    LogSoftmax,
    LogSumExp,
    Max,
    Mean,
    ReLU,
    RMSNorm,
    RotaryEmbedding,
    SiLU,
    Softmax,
    SwiGLU,
    TakeAlongAxis,
)

inf, nan = np.inf, np.nan


@pytest.fixture(params=["numpy", "numba"], autouse=True)
def implementation(request):
    with kernels.use(request.param):
        yield


def zeros(*shape):
    return Tensor(np.zeros(shape), requires_grad=True)


def leaf(values):
    return Tensor(np.array(values), requires_grad=True)


EMPTY = {
    "matmul of a stack and a matrix": (lambda a, b: a @ b, [(0, 3, 4), (4, 5)], (0, 3, 5)),
    "matmul of two stacks": (lambda a, b: a @ b, [(0, 3, 4), (0, 4, 5)], (0, 3, 5)),
    "matmul of nothing inside": (lambda a, b: a @ b, [(2, 0), (0, 5)], (2, 5)),
    "matmul without columns": (lambda a, b: a @ b, [(2, 3, 4), (4, 0)], (2, 3, 0)),
    "affine without rows": (Affine.apply, [(0, 3, 4), (5, 4), (5,)], (0, 3, 5)),
    "affine of nothing inside": (Affine.apply, [(3, 0), (5, 0), (5,)], (3, 5)),
    "attention without a batch": (CausalAttention.apply, [(0, 4, 3, 8), (0, 2, 3, 8), (0, 2, 3, 8)], (0, 4, 3, 8)),
    "attention without tokens": (CausalAttention.apply, [(2, 4, 0, 8), (2, 2, 0, 8), (2, 2, 0, 8)], (2, 4, 0, 8)),
    "attention without queries": (CausalAttention.apply, [(2, 4, 0, 8), (2, 2, 5, 8), (2, 2, 5, 8)], (2, 4, 0, 8)),
    "attention without heads": (CausalAttention.apply, [(2, 0, 3, 8)] * 3, (2, 0, 3, 8)),
    "rotation without tokens": (RotaryEmbedding.apply, [(2, 4, 0, 8)], (2, 4, 0, 8)),
    "softmax over nothing": (Softmax.apply, [(3, 0)], (3, 0)),
    "softmax over an empty first axis": (lambda x: Softmax.apply(x, axis=0), [(0, 3)], (0, 3)),
    "log softmax over nothing": (LogSoftmax.apply, [(3, 0)], (3, 0)),
    "RMS norm over nothing": (RMSNorm.apply, [(3, 0), (0,)], (3, 0)),
    "RMS norm without rows": (RMSNorm.apply, [(0, 3), (3,)], (0, 3)),
    "layer norm over nothing": (LayerNorm.apply, [(3, 0), (0,), (0,)], (3, 0)),
    "layer norm without rows": (LayerNorm.apply, [(0, 3), (3,), (3,)], (0, 3)),
    "take no entries": (lambda x: TakeAlongAxis.apply(x, np.zeros((3, 0), int), axis=1), [(3, 4)], (3, 0)),
    "take from no rows": (lambda x: TakeAlongAxis.apply(x, np.zeros((0, 4), int), axis=0), [(0, 4)], (0, 4)),
    "mean of no rows": (lambda x: Mean.apply(x, axis=1), [(0, 3)], (0,)),
    "sum over nothing": (lambda x: x.sum(axis=0), [(0, 3)], (3,)),
    "log-sum-exp without rows": (lambda x: LogSumExp.apply(x, axis=1), [(0, 3)], (0,)),
    "maxima of no rows": (lambda x: Max.apply(x, axis=1), [(0, 3)], (0,)),
    "SwiGLU over nothing": (SwiGLU.apply, [(3, 0), (3, 0)], (3, 0)),
    "no index": (lambda x: x[[]], [(0, 3)], (0, 3)),
}


@pytest.mark.parametrize("name", EMPTY)
def test_nothing_to_compute(name):
    function, shapes, expected = EMPTY[name]
    inputs = [zeros(*shape) for shape in shapes]
    y = function(*inputs)
    assert y.shape == expected
    assert np.all(y.data == 0)
    y.backward(np.ones(expected))
    for x in inputs:
        assert x.grad.shape == x.shape
        assert np.isfinite(x.grad).all()


def test_the_mean_of_nothing_is_nan_and_has_a_gradient():
    x = zeros(3, 0)
    with pytest.warns(RuntimeWarning, match=r"Mean of empty slice|invalid value"):
        y = x.mean(axis=1)
    assert np.isnan(y.data).all()
    y.backward(np.ones(3))
    assert x.grad.shape == (3, 0)


def test_the_maximum_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"Max needs at least one entry along axis 1, got shape \(3, 0\)"):
        zeros(3, 0).max(axis=1)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
@pytest.mark.parametrize("recipe", ["mixtral", "expert_choice", "switch", "deepseek_v3"])
def test_a_transformer_without_tokens(recipe, shape):
    config = ModelConfig(d_model=32, num_layers=2, context=16, d_ff=24, recipe=recipe)
    model = Transformer(config, rng=np.random.default_rng(0))
    output = model(np.zeros(shape, np.int64), rng=np.random.default_rng(0))
    assert output.logits.shape == (*shape, 256)
    (output.logits.sum() if output.auxiliary_loss is None else output.logits.sum() + output.auxiliary_loss).backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("axis", [np.int64(1), np.int32(-1), (np.int64(0), np.uint8(1))])
@pytest.mark.parametrize("function", ["sum", "mean", "var", LogSumExp])
def test_axes_may_be_numbers_of_numpy(function, axis):
    results = []
    for a in (axis, tuple(map(int, axis)) if isinstance(axis, tuple) else int(axis)):
        x = leaf(np.random.default_rng(0).standard_normal((2, 3)))
        y = function.apply(x, axis=a) if function is LogSumExp else getattr(x, function)(axis=a)
        y.backward(np.ones(y.shape))
        results.append((y.data, x.grad))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


@pytest.mark.parametrize("function", [SiLU, GELU, ReLU])
def test_activations_of_a_number(function):
    one, many = leaf(0.7), leaf([0.7])
    function.apply(one).backward()
    function.apply(many).backward()
    assert function.apply(one).shape == one.grad.shape == ()
    assert one.grad == many.grad[0]


def test_swiglu_of_two_numbers():
    gate, up, gates, ups = leaf(0.7), leaf(2.0), leaf([0.7]), leaf([2.0])
    SwiGLU.apply(gate, up).backward()
    SwiGLU.apply(gates, ups).backward()
    assert (gate.grad, up.grad) == (gates.grad[0], ups.grad[0])


def test_log_sum_exp_of_infinity_is_infinite():
    x = leaf([[inf, 1.0, inf], [1.0, -inf, 1.0], [0.0, 0.0, 1000.0]])
    y = LogSumExp.apply(x, axis=1)
    np.testing.assert_allclose(y.data, [inf, 1 + math.log(2), 1000])
    y.backward(np.ones(3))
    np.testing.assert_allclose(x.grad, [[0.5, 0, 0.5], [0.5, 0, 0.5], [0, 0, 1]])


def test_log_sum_exp_of_nothing_is_minus_infinity():
    assert LogSumExp.apply(zeros(2, 0), axis=1).data.tolist() == [-inf, -inf]


def test_z_loss_of_infinity_is_infinite():
    x = leaf([[inf, 1.0], [0.0, 0.0]])
    loss = RouterZLoss.apply(x)
    assert loss.item() == inf
    loss.backward()
    np.testing.assert_allclose(x.grad, [[inf, 0], [math.log(2) / 2] * 2])


@pytest.mark.parametrize("bad", [inf, -inf, nan])
def test_an_upstream_value_reaches_only_what_was_selected(bad):
    x = leaf([-1.0, 2.0, 3.0])
    ReLU.apply(x).backward(np.array([bad, 1.0, bad]))
    np.testing.assert_array_equal(x.grad, [0, 1, bad])
    for y in (leaf([[1.0, 5.0], [7.0, 2.0]]),):
        y.max(axis=1).backward(np.array([bad, 1.0]))
        np.testing.assert_array_equal(y.grad, [[0, bad], [1, 0]])
    z = leaf([[1.0, 5.0], [7.0, 2.0]])
    z.min(axis=1).backward(np.array([bad, 1.0]))
    np.testing.assert_array_equal(z.grad, [[bad, 0], [0, 1]])
    h = leaf([[9.0, 1.0], [1.0, -9.0], [1.0, 1.0]])  # the gate of the first row and the up of the second are clipped
    ClampedSwiGLU.apply(h).backward(np.array([[bad], [bad], [1.0]]))
    assert (h.grad[0, 0], h.grad[1, 1]) == (0, 0)
    assert np.isfinite(h.grad[2]).all()


@pytest.mark.parametrize("bad", [inf, nan])
def test_what_dropout_drops_is_gone(bad):
    x = Tensor(np.full(100, bad), requires_grad=True)
    y = Dropout.apply(x, rate=0.5, rng=np.random.default_rng(0))
    dropped = y.data == 0
    assert 20 < dropped.sum() < 80
    y.backward(np.full(100, bad))
    np.testing.assert_array_equal(x.grad == 0, dropped)
