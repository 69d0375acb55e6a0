"""Correct functions whose gradients a checker must accept: ``right_functions()`` yields name and ``build(rng)``.

``build`` returns a function of Tensors and its inputs; every generator gives another one of the kind.
"""

import numpy as np

from moe_numpy import ops
from moe_numpy.autodiff import Function, Tensor
from moe_numpy.moe.gates import PickScores, SelectedSoftmax
from moe_numpy.moe.selection import top_k_candidates


class Elementwise(Function):
    """y = f(x) with dy/dx = slope(x)."""

    @staticmethod
    def f(x):
        raise NotImplementedError

    @staticmethod
    def slope(x):
        raise NotImplementedError

    def forward(self, x):
        self.save(x)
        return np.asarray(self.f(x))

    def backward(self, grad):
        with np.errstate(all="ignore"):
            return grad * self.slope(self.saved[0])


def elementwise(name, f, slope):
    return type(name, (Elementwise,), {"f": staticmethod(f), "slope": staticmethod(slope)})


def _sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


Sin = elementwise("Sin", np.sin, np.cos)
Cube = elementwise("Cube", lambda x: x**3, lambda x: 3 * x * x)
ELU = elementwise(
    "ELU",
    lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    lambda x: np.where(x > 0, 1, np.exp(np.minimum(x, 0))),
)
Huber = elementwise("Huber", lambda x: np.where(abs(x) <= 1, x * x / 2, abs(x) - 0.5), lambda x: np.clip(x, -1, 1))
Signed = elementwise("Signed", lambda x: x * abs(x), lambda x: 2 * abs(x))
SquaredReLU = elementwise("SquaredReLU", lambda x: np.maximum(x, 0) ** 2, lambda x: 2 * np.maximum(x, 0))
PlainReLU = elementwise("PlainReLU", lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0)
Leaky = elementwise("Leaky", lambda x: np.where(x > 0, x, 0.1 * x), lambda x: np.where(x > 0, 1, 0.1))
Abs = elementwise("Abs", np.abs, np.sign)
Softsign = elementwise("Softsign", lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2)
Mish = elementwise(
    "Mish",
    lambda x: x * np.tanh(np.logaddexp(0, x)),
    lambda x: np.tanh(np.logaddexp(0, x)) + x * (1 - np.tanh(np.logaddexp(0, x)) ** 2) * _sigmoid(x),
)
LogSigmoid = elementwise("LogSigmoid", lambda x: -np.logaddexp(0, -x), lambda x: _sigmoid(-x))
NaiveLogSigmoid = elementwise("NaiveLogSigmoid", lambda x: np.log(1 / (1 + np.exp(-x))), lambda x: _sigmoid(-x))
Reciprocal = elementwise("Reciprocal", lambda x: 1 / x, lambda x: -1 / x**2)
Cancelling = elementwise("Cancelling", lambda x: x + 3e4 - 3e4, np.ones_like)
Cancelling8 = elementwise("Cancelling8", lambda x: (x + 1e8) - 1e8, np.ones_like)
Constant = elementwise("Constant", lambda x: np.full(x.shape, 3.0), np.zeros_like)
Floor = elementwise("Floor", np.floor, np.zeros_like)
Clip = elementwise("Clip", lambda x: np.clip(x, -1, 1), lambda x: (abs(x) <= 1) * 1.0)
Bump = elementwise("Bump", lambda x: np.exp(-x * x), lambda x: -2 * x * np.exp(-x * x))
Log1p = elementwise("Log1p", np.log1p, lambda x: 1 / (1 + x))
Expm1 = elementwise("Expm1", np.expm1, np.exp)
Arctan = elementwise("Arctan", np.arctan, lambda x: 1 / (1 + x * x))
HardSwish = elementwise(
    "HardSwish",
    lambda x: x * np.clip(x + 3, 0, 6) / 6,
    lambda x: np.where(x < -3, 0, np.where(x > 3, 1, (2 * x + 3) / 6)),
)


def _shape(rng):
    return [(5,), (3, 4), (1, 6), (4, 1), (2, 3, 4), (7, 2)][rng.integers(6)]


def _scale(rng):
    return 10.0 ** rng.integers(-3, 3)


def _x(rng, shape=None, scale=None):
    return rng.standard_normal(shape or _shape(rng)) * (scale if scale is not None else _scale(rng))


def _targets(rng, x):
    return rng.integers(0, x.shape[-1], x.shape[:-1])


ZOO = {}


def right(build):
    ZOO[build.__name__] = build
    return build


def right_functions():
    return ZOO.items()


def _add_unary():
    unary = {
        "exp": (ops.Exp, 1.0, None),
        "log": (ops.Log, None, "positive"),
        "sqrt": (ops.Sqrt, None, "positive"),
        "negate": (ops.Negate, None, None),
        "relu": (ops.ReLU, None, None),
        "gelu": (ops.GELU, 3.0, None),
        "silu": (ops.SiLU, 3.0, None),
        "sigmoid": (ops.Sigmoid, 3.0, None),
        "tanh": (ops.Tanh, 3.0, None),
        "softplus": (ops.Softplus, 3.0, None),
        "sin": (Sin, 3.0, None),
        "cube": (Cube, None, None),
        "softsign": (Softsign, None, None),
        "mish": (Mish, 3.0, None),
        "log_sigmoid": (LogSigmoid, 3.0, None),
        "reciprocal": (Reciprocal, None, "positive"),
        "cancelling": (Cancelling, 1.0, None),
        "leaky": (Leaky, None, None),
        "abs": (Abs, None, None),
        "clip": (Clip, 1.0, None),
        "bump": (Bump, 1.0, None),
        "log1p": (Log1p, None, "positive"),
        "expm1": (Expm1, 1.0, None),
        "arctan": (Arctan, None, None),
        "hard_swish": (HardSwish, 3.0, None),
        "constant": (Constant, None, None),
        "plain_relu": (PlainReLU, None, None),
        "cancelling_eight": (Cancelling8, 1.0, None),
        "floor": (Floor, 1.0, None),
    }
    for name, (op, scale, kind) in unary.items():

        def build(rng, op=op, scale=scale, kind=kind):
            x = _x(rng, scale=scale)
            return op.apply, [np.abs(x) + 1e-3 * np.abs(x).max() if kind == "positive" else x]

        ZOO[name] = build

        def summed(rng, op=op, scale=scale, kind=kind):
            x = _x(rng, scale=scale)
            return lambda x: op.apply(x).sum(), [np.abs(x) + 1e-3 * np.abs(x).max() if kind == "positive" else x]

        ZOO[name + "_summed"] = summed


_add_unary()


@right
def add(rng):
    return ops.Add.apply, [_x(rng, (3, 4)), _x(rng, (4,))]


@right
def subtract_broadcast(rng):
    return ops.Subtract.apply, [_x(rng, (3, 1)), _x(rng, (1, 4))]


@right
def multiply(rng):
    return ops.Multiply.apply, [_x(rng, (3, 4)), _x(rng, (3, 1))]


@right
def divide(rng):
    return ops.Divide.apply, [_x(rng, (3, 4)), 1 + rng.random((4,))]


@right
def power(rng):
    exponent = [2, 3, 0.5, -1, 1.7][rng.integers(5)]
    return lambda x: x**exponent, [0.1 + rng.random((3, 4))]


@right
def matmul(rng):
    return ops.MatMul.apply, [_x(rng, (3, 4)), _x(rng, (4, 2))]


@right
def batched_matmul(rng):
    return ops.MatMul.apply, [_x(rng, (2, 3, 4)), _x(rng, (4, 2))]


@right
def affine(rng):
    return ops.Affine.apply, [_x(rng, (3, 4)), _x(rng, (2, 4)), _x(rng, (2,))]


@right
def softmax(rng):
    return lambda x: ops.Softmax.apply(x, axis=-1), [_x(rng, (3, 4))]


@right
def log_softmax(rng):
    return lambda x: ops.LogSoftmax.apply(x, axis=-1), [_x(rng, (3, 4))]


@right
def softmax_summed(rng):
    return lambda x: ops.Softmax.apply(x, axis=1).sum(axis=1), [_x(rng, (3, 4))]


@right
def softmax_summed_everywhere(rng):
    return lambda x: ops.Softmax.apply(x, axis=1).sum(), [_x(rng, (6, 3))]


@right
def cross_entropy(rng):
    x = _x(rng, (3, 5))
    t = _targets(rng, x)
    return lambda x: ops.CrossEntropy.apply(x, t), [x]


def _dominated(rng, by):
    x = rng.standard_normal((3, 5))
    t = _targets(rng, x)
    x[np.arange(3), t] += by
    return x, t


for _by in (20, 30, 34, 36, 38, 40, 45, 80, 700):

    def _build(rng, by=_by):
        x, t = _dominated(rng, by)
        return lambda x: ops.CrossEntropy.apply(x, t), [x]

    ZOO[f"cross_entropy_{_by}_above"] = _build

    def _build(rng, by=_by):
        x, _ = _dominated(rng, by)
        return lambda x: ops.LogSumExp.apply(x, axis=-1), [x]

    ZOO[f"log_sum_exp_{_by}_above"] = _build

    def _build(rng, by=_by):
        x, _ = _dominated(rng, by)
        return lambda x: ops.Softmax.apply(x, axis=-1), [x]

    ZOO[f"softmax_{_by}_above"] = _build

    def _build(rng, by=_by):
        x = by * np.array([1.0, -1.0, 0.5, 0.01, -0.3]) + rng.standard_normal(5)
        return [ops.Sigmoid, ops.Tanh, ops.SiLU, ops.GELU, ops.Softplus][rng.integers(5)].apply, [x]

    ZOO[f"saturated_{_by}"] = _build

    def _build(rng, by=_by):
        x = by + rng.standard_normal((2, 3))
        return [ops.Sigmoid, ops.Tanh, LogSigmoid, NaiveLogSigmoid][rng.integers(4)].apply, [x]

    ZOO[f"all_saturated_{_by}"] = _build


@right
def one_row_dominated(rng):
    x = rng.standard_normal((4, 5))
    x[0, 1] += 40
    t = np.array([1, 0, 2, 3])
    return lambda x: ops.CrossEntropy.apply(x, t), [x]


@right
def renormalised_top_2_summed(rng):
    def f(h):
        c = top_k_candidates(h.data, 2)
        picked = PickScores.apply(h, c.token, c.expert)
        return SelectedSoftmax.apply(picked, c.token, num_tokens=4).sum()

    return f, [_x(rng, (4, 6), 1.0)]


@right
def renormalised_top_1(rng):
    def f(h):
        p = ops.Softmax.apply(h, axis=-1)
        c = top_k_candidates(p.data, 1)
        picked = PickScores.apply(p, c.token, c.expert)
        return picked / picked

    return f, [_x(rng, (4, 6), 1.0)]


@right
def top_2_weights(rng):
    def f(h):
        c = top_k_candidates(h.data, 2)
        return SelectedSoftmax.apply(PickScores.apply(h, c.token, c.expert), c.token, num_tokens=4)

    return f, [_x(rng, (4, 6), 1.0)]


@right
def layer_norm(rng):
    return lambda x, w, b: ops.LayerNorm.apply(x, w, b), [_x(rng, (3, 6)), _x(rng, (6,), 1.0), _x(rng, (6,), 1.0)]


@right
def layer_norm_summed(rng):
    one, zero = np.ones(6), np.zeros(6)
    return lambda x: ops.LayerNorm.apply(x, Tensor(one), Tensor(zero)).sum(), [_x(rng, (3, 6))]


@right
def layer_norm_summed_by_row(rng):
    one, zero = np.ones(6), np.zeros(6)
    return lambda x: ops.LayerNorm.apply(x, Tensor(one), Tensor(zero)).sum(axis=1), [_x(rng, (3, 6))]


@right
def rms_norm(rng):
    return lambda x, w: ops.RMSNorm.apply(x, w), [_x(rng, (3, 6)), _x(rng, (6,), 1.0)]


@right
def rms_norm_summed(rng):
    return lambda x: ops.RMSNorm.apply(x, Tensor(np.ones(6))).sum(), [_x(rng, (3, 6))]


@right
def rms_norm_squared_summed(rng):
    def f(x):
        y = ops.RMSNorm.apply(x, Tensor(np.ones(6)))
        return (y * y).sum(axis=-1)

    return f, [_x(rng, (3, 6))]


@right
def sin_of_1e4(rng):
    return Sin.apply, [1e4 + rng.standard_normal(5)]


@right
def sin_of_1e4_summed(rng):
    return lambda x: Sin.apply(x).sum(), [1e4 * rng.standard_normal((2, 3))]


@right
def sin_of_1e6(rng):
    return Sin.apply, [1e6 + rng.standard_normal(5)]


@right
def elu_at_zero(rng):
    x = _x(rng, (6,), 1.0)
    x[[1, 4]] = 0
    return ELU.apply, [x]


@right
def elu_beside_zero(rng):
    x = _x(rng, (6,), 1.0)
    x[:3] = 10.0 ** -rng.integers(2, 12, 3) * rng.choice([-1, 1], 3)
    return ELU.apply, [x]


@right
def huber_at_its_joint(rng):
    x = _x(rng, (6,), 1.0)
    x[:4] = [1, -1, 1 + 1e-5, 1 - 1e-7]
    return Huber.apply, [x]


@right
def huber_summed(rng):
    x = _x(rng, (6,), 1.0)
    x[:2] = [1, -1]
    return lambda x: Huber.apply(x).sum(), [x]


@right
def x_abs_x(rng):
    x = _x(rng, (6,), 1.0)
    x[:4] = [0, 1e-4, -1e-6, 1e-9]
    return Signed.apply, [x]


@right
def x_abs_x_summed(rng):
    x = _x(rng, (6,), 1.0)
    x[:4] = [0, 1e-4, -1e-6, 1e-9]
    return lambda x: Signed.apply(x).sum(), [x]


@right
def squared_relu(rng):
    x = _x(rng, (6,), 1.0)
    x[:4] = [0, 1e-4, -1e-6, 1e-9]
    return SquaredReLU.apply, [x]


@right
def squared_relu_summed(rng):
    x = _x(rng, (6,), 1.0)
    x[:4] = [0, 1e-4, -1e-6, 1e-9]
    return lambda x: SquaredReLU.apply(x).sum(), [x]


@right
def relu_at_zero(rng):
    x = _x(rng, (6,), 1.0)
    x[:4] = [0, 1e-4, -1e-6, 1e-9]
    return [ops.ReLU, PlainReLU, Abs, Leaky][rng.integers(4)].apply, [x]


@right
def square_at_zero(rng):
    x = _x(rng, (6,))
    x[:3] = 0
    return lambda x: x * x, [x]


@right
def zeros(rng):
    op = [Cube, Sin, ops.Tanh, ops.GELU, ops.Softplus, ops.SiLU, Signed, ELU, Bump, Huber][rng.integers(10)]
    return op.apply, [np.zeros((2, 3))]


@right
def beside_huge(rng):
    return lambda x: x * x, [np.array([1e8, 1, 2, 3, -1.5]) * (1 + 0.1 * rng.random(5))]


@right
def beside_huge_summed(rng):
    return lambda x: (x * x).sum(), [np.array([1e8, 1, 2, 3, -1.5]) * (1 + 0.1 * rng.random(5))]


@right
def rows_of_different_size(rng):
    x = rng.standard_normal((4, 5)) * 10.0 ** np.array([[8], [0], [-8], [3]])
    return [lambda x: x * x, Cube.apply, lambda x: ops.RMSNorm.apply(x, Tensor(np.ones(5)))][rng.integers(3)], [x]


@right
def huge(rng):
    return [lambda x: x * x, lambda x: ops.RMSNorm.apply(x, Tensor(np.ones(4)))][rng.integers(2)], [
        _x(rng, (3, 4), 10.0 ** rng.integers(20, 100))
    ]


@right
def tiny(rng):
    return [lambda x: x * x, Sin.apply, ops.Tanh.apply][rng.integers(3)], [
        _x(rng, (3, 4), 10.0 ** -rng.integers(20, 200))
    ]


@right
def long_chain(rng):
    op = [ops.Tanh, Sin, Softsign][rng.integers(3)]

    def f(x):
        for _ in range(60):
            x = op.apply(x)
        return x

    return f, [_x(rng, (3, 4), 1.0)]


@right
def long_sum(rng):
    def f(x):
        y = x
        for k in range(80):
            y = y + x * float(k % 3)
        return y

    return f, [_x(rng, (5,))]


@right
def mlp(rng):
    def f(x, a, b):
        return ops.Affine.apply(ops.GELU.apply(ops.Affine.apply(x, a, None)), b, None)

    return f, [_x(rng, (3, 4), 1.0), _x(rng, (6, 4), 1.0), _x(rng, (2, 6), 1.0)]


@right
def mlp_loss(rng):
    t = rng.integers(0, 3, 4)

    def f(x, a, b):
        return ops.CrossEntropy.apply(ops.Affine.apply(ops.ReLU.apply(ops.Affine.apply(x, a, None)), b, None), t)

    return f, [_x(rng, (4, 3), 1.0), _x(rng, (5, 3), 1.0), _x(rng, (3, 5), 3.0)]


@right
def swiglu(rng):
    return ops.SwiGLU.apply, [_x(rng, (3, 4), 1.0), _x(rng, (3, 4), 1.0)]


@right
def attention(rng):
    return ops.CausalAttention.apply, [_x(rng, (1, 2, 4, 3), 1.0) for _ in range(3)]


@right
def attention_sharp(rng):
    return ops.CausalAttention.apply, [_x(rng, (1, 2, 4, 3), s) for s in (10.0, 10.0, 1.0)]


@right
def reductions(rng):
    op = [ops.Sum, ops.Mean, ops.LogSumExp][rng.integers(3)]
    return lambda x: op.apply(x, axis=1), [_x(rng, (3, 4))]


@right
def maximum(rng):
    return lambda x: ops.Max.apply(x, axis=1), [_x(rng, (3, 4))]


@right
def maximum_tied(rng):
    x = rng.integers(0, 3, (3, 4)).astype(float)
    return lambda x: ops.Max.apply(x, axis=1), [x]


@right
def indexing(rng):
    ids = rng.integers(0, 4, 7)
    return lambda x: x[ids], [_x(rng, (4, 3))]


@right
def embedding(rng):
    ids = rng.integers(0, 4, 7)
    return lambda x: ops.EmbeddingLookup.apply(x, ids), [_x(rng, (4, 3))]


@right
def transposed(rng):
    return lambda x: ops.Transpose.apply(x, axes=(1, 0)), [_x(rng, (4, 3))]


@right
def concatenated(rng):
    return lambda a, b: ops.Concatenate.apply(a, b, axis=0), [_x(rng, (4, 3)), _x(rng, (2, 3))]


@right
def variance(rng):
    def f(x):
        c = x - x.mean(axis=-1, keepdims=True)
        return (c * c).mean(axis=-1)

    return f, [_x(rng, (3, 6)) + 10.0 ** rng.integers(-2, 3)]


@right
def entropy(rng):
    def f(x):
        p = ops.Softmax.apply(x, axis=-1)
        return -(p * ops.LogSoftmax.apply(x, axis=-1)).sum(axis=-1)

    return f, [_x(rng, (3, 4), [0.1, 1.0, 5.0][rng.integers(3)])]


@right
def cosine(rng):
    def f(x, y):
        return (x * y).sum(axis=-1) / ((x * x).sum(axis=-1) * (y * y).sum(axis=-1)) ** 0.5

    return f, [_x(rng, (3, 5), 1.0), _x(rng, (3, 5), 1.0)]


@right
def normalised_norm(rng):
    """Constantly 1."""

    def f(x):
        y = x / (x * x).sum(axis=-1, keepdims=True) ** 0.5
        return (y * y).sum(axis=-1)

    return f, [_x(rng, (3, 5))]


@right
def z_loss(rng):
    def f(x):
        z = ops.LogSumExp.apply(x, axis=-1)
        return (z * z).mean()

    return f, [_x(rng, (4, 5))]


@right
def unused_input(rng):
    return lambda x, unused: x * x, [_x(rng), _x(rng)]


@right
def several_outputs(rng):
    return lambda x: (x * x, x.sum(axis=0), x.mean() * 1e6), [_x(rng, (3, 4))]


@right
def outputs_of_different_size(rng):
    return lambda x: (1e9 * x, 1e-9 * x * x), [_x(rng, (3, 4), 1.0)]


@right
def added_constant(rng):
    constant = 10.0 ** rng.integers(2, 6)
    return lambda x: Sin.apply(x) + constant, [_x(rng, (3, 4), 1.0)]


@right
def scalar(rng):
    return [Sin, Cube, ops.Exp, ELU][rng.integers(4)].apply, [np.array(rng.standard_normal())]


@right
def determinant(rng):
    class Determinant(Function):
        def forward(self, a):
            self.save(a)
            return np.asarray(np.linalg.det(a))

        def backward(self, grad):
            (a,) = self.saved
            return grad * np.linalg.det(a) * np.linalg.inv(a).T

    return Determinant.apply, [_x(rng, (3, 3))]


@right
def steep_and_flat(rng):
    return lambda x: ops.Sigmoid.apply(x * 1e3), [rng.standard_normal(6) * 1e-2]


@right
def high_power(rng):
    return lambda x: x**9, [0.5 + rng.random((3, 4))]


@right
def oscillating(rng):
    return lambda x: Sin.apply(x * 300.0), [_x(rng, (5,), 1.0)]
