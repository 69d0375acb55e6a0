"""Wrong gradients that a checker must find: ``wrong_gradients()`` yields name, ``build(rng)`` and words of the report.

``build`` returns a function of Tensors and its inputs. The words are None where several true descriptions exist.
"""

import numpy as np

from moe_numpy.autodiff import Function, Tensor
from moe_numpy.nn import Module

ZOO = {}


def wrong(words):
    def register(build):
        ZOO[build.__name__] = (build, words)
        return build

    return register


def wrong_gradients():
    return ((name, build, words) for name, (build, words) in ZOO.items())


class Square(Function):
    def forward(self, x):
        self.save(x)
        return x * x

    def backward(self, grad):
        return 2 * self.saved[0] * grad


class Softmax(Function):
    def forward(self, x):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        y = e / e.sum(axis=-1, keepdims=True)
        self.save(y)
        return y

    def backward(self, grad):
        (y,) = self.saved
        return y * (grad - (grad * y).sum(axis=-1, keepdims=True))


class RMSNorm(Function):
    def forward(self, x):
        r = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-9)
        self.save(x, r)
        return x * r

    def backward(self, grad):
        x, r = self.saved
        return r * (grad - x * r * r * (grad * x).mean(axis=-1, keepdims=True))


class MatMul(Function):
    def forward(self, a, b):
        self.save(a, b)
        return a @ b

    def backward(self, grad):
        a, b = self.saved
        return grad @ b.T, a.T @ grad


class Sigmoid(Function):
    def forward(self, x):
        y = 1 / (1 + np.exp(-x))
        self.save(y)
        return y

    def backward(self, grad):
        (y,) = self.saved
        return grad * y * (1 - y)


BASES = {"square": Square, "softmax": Softmax, "rms_norm": RMSNorm, "sigmoid": Sigmoid}


def spoiled(base, spoil):
    """``base`` whose gradient goes through ``spoil(self, dx, grad)``."""

    def backward(self, grad):
        return spoil(self, base.backward(self, grad), grad)

    return type(f"Wrong{base.__name__}", (base,), {"backward": backward})


def _x(rng, shape=(4, 5), scale=1.0):
    return scale * rng.standard_normal(shape)


def _one_entry(self, dx, grad):
    dx = dx.copy()
    dx.flat[3] *= 1.01
    return dx


def _negative_rows(self, dx, grad):
    return np.where(self.saved[0].sum(axis=-1, keepdims=True) < 0, 2 * dx, dx)


def _negative_entries(self, dx, grad):
    return np.where(dx < 0, -dx, dx)


def _zero_rows_nan(self, dx, grad):
    with np.errstate(all="ignore"):
        return dx * (grad / grad)


def _stops_at_zero_row(self, dx, grad):
    dx = dx.copy()
    empty = np.flatnonzero(~grad.any(axis=-1))
    if len(empty):
        dx[empty[0] :] = 0
    return dx


def _wrong_if_any_zero_row(self, dx, grad):
    return dx * 1.5 if (~grad.any(axis=-1)).any() else dx


def _skips_rows(self, dx, grad):
    full = grad.any(axis=-1)
    out = np.zeros_like(dx)
    out[: full.sum()] = dx[full]
    return out


def _small_dropped(self, dx, grad):
    return np.where(abs(grad) < 1e-6, 0, dx)


SPOILS = {
    "sign": (lambda self, dx, g: -dx, "the sign is flipped"),
    "over_T": (lambda self, dx, g: dx / len(dx), "too small by a factor 4"),
    "times_E": (lambda self, dx, g: dx * dx.shape[1], "too large by a factor 5"),
    "twice": (lambda self, dx, g: 2 * dx, "too large by a factor 2"),
    "half": (lambda self, dx, g: dx / 2, "too small by a factor 2"),
    "a_little": (lambda self, dx, g: dx * (1 + 3e-6), "too large by a factor 1.000003"),
    "zero": (lambda self, dx, g: 0 * dx, "zero everywhere"),
    "last_row_missing": (lambda self, dx, g: dx * (np.arange(len(dx)) < len(dx) - 1)[:, None], "wrong only at index 3"),
    "rows_reversed": (lambda self, dx, g: dx[::-1], "permuted along axis 0"),
    "columns_rolled": (lambda self, dx, g: np.roll(dx, 1, axis=1), "permuted along axis 1"),
    "one_entry": (_one_entry, "wrong only"),
    "negative_rows": (_negative_rows, None),
    "negative_entries": (_negative_entries, None),
    "nan_at_zero_rows": (_zero_rows_nan, "NaN"),
    "stops_at_zero_row": (_stops_at_zero_row, "rows of zeros"),
    "wrong_if_any_zero_row": (_wrong_if_any_zero_row, "rows of zeros"),
    "skips_zero_rows": (_skips_rows, "rows of zeros"),
    "small_upstream_dropped": (_small_dropped, "not linear"),
    "clipped": (lambda self, dx, g: np.clip(dx, -0.05, 0.05), None),
    "upstream_ignored": (
        lambda self, dx, g: type(self).__base__.backward(self, np.ones_like(g)),
        "ignores the upstream",
    ),
    "upstream_squared": (lambda self, dx, g: dx * g, None),
    "float32": (lambda self, dx, g: dx.astype(np.float32).astype(np.float64), "float32"),
    "float16": (lambda self, dx, g: dx.astype(np.float16).astype(np.float64), None),
}

for _base_name, _base in BASES.items():
    for _spoil_name, (_spoil, _words) in SPOILS.items():
        if _spoil_name == "negative_rows" and _base_name in ("softmax", "sigmoid"):
            continue  # they save their output, which is positive
        _op = spoiled(_base, _spoil)

        def _build(rng, op=_op):
            return op.apply, [_x(rng)]

        _build.__name__ = f"{_base_name}_{_spoil_name}"
        wrong(_words)(_build)

        def _build(rng, op=_op):
            w = rng.standard_normal((5, 3))
            return lambda x: MatMul.apply(op.apply(x), Tensor(w)), [_x(rng)]

        if _spoil_name not in ("nan_at_zero_rows", "small_upstream_dropped") and "zero_row" not in _spoil_name:
            _build.__name__ = f"{_base_name}_{_spoil_name}_inside"
            wrong(None)(_build)


@wrong(None)
def transposed_weight(rng):
    op = type("W", (MatMul,), {"backward": lambda s, g: (g @ s.saved[1].T, (s.saved[0].T @ g).T)})
    return op.apply, [_x(rng, (3, 4)), _x(rng, (4, 4))]


@wrong("the sum over that axis is missing")
def missing_broadcast_sum(rng):
    class Bias(Function):
        def forward(self, x, b):
            return x + b

        def backward(self, g):
            return g, g[0]

    return Bias.apply, [_x(rng), _x(rng, (5,))]


@wrong("overwritten instead of accumulated")
def overwritten(rng):
    ids = np.array([0, 2, 2, 1, 2, 0])

    class Rows(Function):
        def forward(self, x):
            self.shape = x.shape
            return x[ids]

        def backward(self, g):
            dx = np.zeros(self.shape)
            dx[ids] = g
            return dx

    return Rows.apply, [_x(rng)]


@wrong("permuted")
def permutation_missing(rng):
    order = np.array([2, 3, 1, 0])
    op = type("P", (Function,), {"forward": lambda s, x: x[order], "backward": lambda s, g: g})
    return op.apply, [_x(rng)]


@wrong(None)
def axis_wrong(rng):
    class Wrong(Softmax):
        def backward(self, grad):
            (y,) = self.saved
            return y * (grad - (grad * y).sum(axis=0, keepdims=True))

    return Wrong.apply, [_x(rng)]


@wrong("a term is missing")
def term_missing(rng):
    return type("W", (Softmax,), {"backward": lambda s, g: g * s.saved[0]}).apply, [_x(rng)]


@wrong(None)
def term_missing_in_norm(rng):
    return type("W", (RMSNorm,), {"backward": lambda s, g: g * s.saved[1]}).apply, [_x(rng)]


@wrong(None)
def own_example(rng):
    """The input of the README: the cotangent of default_rng(0) would equal it."""
    op = type("W", (Square,), {"backward": lambda s, g: 2 * s.saved[0] * s.saved[0]})
    return op.apply, [np.random.default_rng(0).standard_normal((3, 4))]


@wrong(None)
def norm_of_own_example(rng):
    return type("W", (RMSNorm,), {"backward": lambda s, g: 0 * g}).apply, [
        np.random.default_rng(0).standard_normal((3, 4))
    ]


BESIDE = {
    "doubled": lambda x, dx: np.where(abs(x) < 1e-3 * abs(x).max(), 2 * dx, dx),
    "flipped": lambda x, dx: np.where(abs(x) < 1e-3 * abs(x).max(), -dx, dx),
    "zeroed": lambda x, dx: np.where(abs(x) < 1e-3 * abs(x).max(), 0 * dx, dx),
}
for _name, _spoil in BESIDE.items():
    for _large in (1e6, 1e8, 1e10, 1e12):

        def _build(rng, spoil=_spoil, large=_large):
            op = spoiled(Square, lambda self, dx, g: spoil(self.saved[0], dx))
            return op.apply, [np.array([large, 1, 2, 3, -1.5]) * (1 + rng.random(5))]

        _build.__name__ = f"small_entries_{_name}_beside_{_large:.0e}"
        wrong("wrong only")(_build)

        def _build(rng, spoil=_spoil, large=_large):
            op = spoiled(Square, lambda self, dx, g: spoil(self.saved[0], dx))
            return lambda x: op.apply(x).sum(), [np.array([large, 1, 2, 3, -1.5]) * (1 + rng.random(5))]

        _build.__name__ = f"small_entries_{_name}_beside_{_large:.0e}_summed"
        wrong("wrong only")(_build)

        def _build(rng, spoil=_spoil, large=_large):
            op = spoiled(RMSNorm, lambda self, dx, g: spoil(self.saved[0], dx))
            x = rng.standard_normal((3, 4))
            x[1] *= large
            return op.apply, [x]

        _build.__name__ = f"small_rows_{_name}_beside_{_large:.0e}"
        wrong(None)(_build)


@wrong("the output is flat at index 1 of axis 0")
def zero_rows_of_x(rng):
    """Wrong for rows of zeros, which the input has."""
    x = _x(rng)
    x[1] = 0
    return spoiled(Square, lambda s, dx, g: np.where(s.saved[0].any(axis=1, keepdims=True), dx, g)).apply, [x]


@wrong("the output is flat where the input is negative")
def relu_without_mask(rng):
    class Relu(Function):
        def forward(self, x):
            return np.maximum(x, 0)

        def backward(self, g):
            return g

    return Relu.apply, [_x(rng)]


# --- state ---------------------------------------------------------------------------------------------------


@wrong("state is shared")
def state_on_the_class(rng):
    class Wrong(Function):
        def forward(self, x):
            Wrong.x = x
            return x * x

        def backward(self, g):
            return 2 * Wrong.x * g

    return Wrong.apply, [_x(rng)]


@wrong("state is shared")
def state_in_a_global(rng):
    kept = []

    class Wrong(Function):
        def forward(self, x):
            kept.append(x)
            return x * x

        def backward(self, g):
            return 2 * kept[-1] * g

    return Wrong.apply, [_x(rng)]


@wrong("state is shared")
def state_on_a_stack(rng):
    """Right when the last graph runs backward first."""
    kept = []

    class Wrong(Function):
        def forward(self, x):
            kept.append(x)
            return x * x

        def backward(self, g):
            return 2 * kept.pop() * g

    return Wrong.apply, [_x(rng)]


@wrong("state is shared")
def state_in_a_dictionary_by_shape(rng):
    kept = {}

    class Wrong(Function):
        def forward(self, x):
            kept[x.shape] = np.tanh(x)
            return kept[x.shape].copy()

        def backward(self, g):
            y = next(iter(kept.values()))
            return (1 - y * y) * g

    return Wrong.apply, [_x(rng)]


@wrong("state is shared")
def state_in_a_module(rng):
    class Layer(Module):
        def __init__(self):
            super().__init__()
            self.buffer = None

        def forward(self, x):
            layer = self

            class Wrong(Function):
                def forward(self, x):
                    layer.buffer = x
                    return x * x

                def backward(self, g):
                    return 2 * layer.buffer * g

            return Wrong.apply(x)

    return Layer(), [_x(rng)]


@wrong(None)
def mask_cached_from_the_first_pass(rng):
    kept = {}

    class Wrong(Function):
        def forward(self, x):
            kept.setdefault("mask", x > 0)
            return np.maximum(x, 0)

        def backward(self, g):
            return g * kept["mask"]

    return Wrong.apply, [_x(rng)]


@wrong(None)
def stale_saved_array(rng):
    """Keeps the array of the first pass."""
    kept = {}

    class Wrong(Function):
        def forward(self, x):
            kept.setdefault("x", x.copy())
            return x * x

        def backward(self, g):
            return 2 * kept["x"] * g

    return Wrong.apply, [_x(rng)]


@wrong(None)
def order_cached(rng):
    kept = {}

    class Wrong(Function):
        def forward(self, x):
            self.order = np.argsort(x, axis=0)
            kept.setdefault("order", self.order)
            return np.take_along_axis(x, self.order, 0)

        def backward(self, g):
            dx = np.zeros_like(g)
            np.put_along_axis(dx, kept["order"], g, 0)
            return dx

    return Wrong.apply, [_x(rng)]


@wrong("overwrites the gradient")
def shared_result_buffer(rng):
    buffer = np.zeros((4, 5))

    class Wrong(Square):
        def backward(self, g):
            np.multiply(2 * self.saved[0], g, out=buffer)
            return buffer

    return Wrong.apply, [_x(rng)]


@wrong(None)
def shared_result_buffer_twice_in_one_graph(rng):
    buffer = np.zeros((4, 5))

    class Wrong(Square):
        def backward(self, g):
            np.multiply(2 * self.saved[0], g, out=buffer)
            return buffer

    return lambda x, y: Wrong.apply(x) + Wrong.apply(y), [_x(rng), _x(rng)]


@wrong(None)
def accumulates_into_a_buffer(rng):
    buffer = np.zeros((4, 5))

    class Wrong(Square):
        def backward(self, g):
            nonlocal buffer
            buffer += 2 * self.saved[0] * g
            return buffer.copy()

    return Wrong.apply, [_x(rng)]


@wrong(None)
def shared_output_buffer(rng):
    buffer = np.zeros((4, 5))

    class Wrong(Function):
        def forward(self, x):
            self.x = x
            np.multiply(x, x, out=buffer)
            return buffer

        def backward(self, g):
            return 2 * self.x * g

    return Wrong.apply, [_x(rng)]


# --- ownership -----------------------------------------------------------------------------------------------


@wrong("writes into the gradient that it receives")
def writes_upstream(rng):
    def backward(self, g):
        g *= 2 * self.saved[0]
        return g

    return type("W", (Square,), {"backward": backward}).apply, [_x(rng)]


@wrong("writes into the gradient that it receives")
def writes_upstream_inside(rng):
    def backward(self, g):
        g *= 2 * self.saved[0]
        return g

    op = type("W", (Square,), {"backward": backward})
    return lambda x: Softmax.apply(op.apply(Sigmoid.apply(x))), [_x(rng)]


@wrong("writes into the gradient that it receives")
def zeroes_upstream_afterwards(rng):
    def backward(self, g):
        dx = 2 * self.saved[0] * g
        g[:] = 0
        return dx

    return type("W", (Square,), {"backward": backward}).apply, [_x(rng)]


@wrong(None)
def writes_saved(rng):
    def backward(self, g):
        (x,) = self.saved
        x *= 2
        return x * g

    return type("W", (Square,), {"backward": backward}).apply, [_x(rng)]


@wrong("writes into an array that forward saved")
def writes_saved_output(rng):
    def backward(self, g):
        (y,) = self.saved
        dx = y * (g - (g * y).sum(axis=-1, keepdims=True))
        y[:] = 0
        return dx

    return type("W", (Softmax,), {"backward": backward}).apply, [_x(rng)]


@wrong("same graph")
def writes_an_attribute(rng):
    class Wrong(Function):
        def forward(self, x):
            self.y = np.exp(x)
            return self.y.copy()

        def backward(self, g):
            self.y *= g
            return self.y

    return Wrong.apply, [_x(rng)]


@wrong("outputs change")
def writes_its_output(rng):
    class Wrong(Function):
        def forward(self, x):
            self.y = np.exp(x)
            return self.y

        def backward(self, g):
            self.y *= g
            return self.y.copy()

    return Wrong.apply, [_x(rng)]


@wrong("backward changes the input")
def writes_input(rng):
    class Wrong(Function):
        def forward(self, x):
            self.x = x
            return x * x

        def backward(self, g):
            dx = 2 * self.x * g
            self.x[:] = 0
            return dx

    return Wrong.apply, [_x(rng)]


@wrong("forward changes the input")
def forward_writes_input(rng):
    class Wrong(Function):
        def forward(self, x):
            self.save(x.copy())
            x *= x
            return x

        def backward(self, g):
            return 2 * self.saved[0] * g

    return Wrong.apply, [_x(rng)]


# --- precision -----------------------------------------------------------------------------------------------


@wrong("float32")
def float32_forward(rng):
    class Wrong(Function):
        def forward(self, x):
            y = np.tanh(x.astype(np.float32)).astype(np.float64)
            self.save(y)
            return y

        def backward(self, g):
            return (1 - self.saved[0] ** 2) * g

    return Wrong.apply, [_x(rng)]


@wrong("float32")
def float32_inside(rng):
    class Wrong(Function):
        def forward(self, x):
            e = np.exp(x).astype(np.float32)
            y = (e / e.sum(axis=-1, keepdims=True)).astype(np.float64) + 0.5 * x
            self.save(y - 0.5 * x)
            return y

        def backward(self, g):
            (y,) = self.saved
            return y * (g - (g * y).sum(axis=-1, keepdims=True)) + 0.5 * g

    return Wrong.apply, [_x(rng)]


@wrong("float32")
def float32_output(rng):
    op = type("W", (Square,), {"forward": lambda s, x: (s.save(x), (x * x).astype(np.float32))[1]})
    return op.apply, [_x(rng)]
