"""Exercise 03: the linear layer, forward and backward."""

from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, float32, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=3,
    name="affine",
    title="Matrix multiplication and bias",
    teaches="Why the gradient of a matrix multiplication is two more, and which factor is transposed.",
    difficulty=2,
    minutes=20,
    needs=(2,),
    target="moe_numpy.ops.matmul:Affine",
    hints=(
        "Write one entry: y_to = Σ_i x_ti W_oi + b_o. Which outputs does x_ti reach? Which does W_oi? Which b_o?",
        "dx_ti = Σ_o g_to W_oi, dW_oi = Σ_t g_to x_ti, db_o = Σ_t g_to. The index summed over tells what to transpose.",
        "Flatten x and grad to [rows, in] and [rows, out]. Then dx = g @ W (reshaped to x.shape), dW = g.T @ x, "
        "db = g.sum(axis=0).",
    ),
)


def specification(x: Any, weight: Any, bias: Any) -> Any:
    """One output at a time: Σ_j x_j W_oj + b_o."""
    if x.shape[-1:] != weight.shape[1:] or (bias is not None and bias.shape != weight.shape[:1]):
        raise ValueError("shapes")
    y = np.zeros((*x.shape[:-1], len(weight)), x.dtype)
    for index in np.ndindex(x.shape[:-1]):
        for o in range(len(weight)):
            y[(*index, o)] = 0.0 if bias is None else bias[o]
            for j in range(x.shape[-1]):
                y[(*index, o)] += x[(*index, j)] * weight[o, j]
    return y


def matrices(rng: np.random.Generator) -> list[Case]:
    return [_case(rng, (t,), i, o) for t, i, o in [(5, 3, 4), (2, 4, 3), (1, 3, 2), (4, 1, 3), (3, 2, 1), (1, 1, 1)]]


def square(rng: np.random.Generator) -> list[Case]:
    return [_case(rng, (4,), 4, 4), _case(rng, (3, 3), 3, 3)]


def leading_axes(rng: np.random.Generator) -> list[Case]:
    """Batches of sequences, and a single vector."""
    return [_case(rng, (2, 3), 4, 5), _case(rng, (2, 1, 3), 2, 3), _case(rng, (), 3, 2)]


def without_bias(rng: np.random.Generator) -> list[Case]:
    return [case(*c.args[:2], None) for c in (_case(rng, (5,), 3, 4), _case(rng, (2, 3), 4, 2))]


def no_rows(rng: np.random.Generator) -> list[Case]:
    """An expert without tokens: the gradient of its weights is zero."""
    return [_case(rng, (0,), 3, 4), _case(rng, (2, 0), 3, 4)]


def every_axis(rng: np.random.Generator) -> list[Case]:
    """Leading axes none of which is 1, and one output for one vector."""
    return [_case(rng, (2, 3, 2), 3, 2), _case(rng, (3, 2), 1, 1), _case(rng, (), 3, 1), _case(rng, (), 1, 1)]


def not_a_number(rng: np.random.Generator) -> list[Case]:
    c = _case(rng, (5,), 3, 4)
    c.args[0][1, 2] = np.nan
    return [c]


def refused(rng: np.random.Generator) -> list[Case]:
    """Shapes that do not fit, some of them with as many entries as ones that do."""
    x, weight, bias = _case(rng, (5,), 3, 4).args
    return [
        case(x, weight.T, None),
        case(x, weight, bias[:3]),
        case(x, weight, np.ones(5)),
        case(rng.standard_normal((2, 6)), weight, bias),
        case(rng.standard_normal(6), weight, None),
        case(rng.standard_normal((3, 2)), weight, None),
        case(np.asarray(rng.standard_normal()), weight, None),
    ]


def larger(rng: np.random.Generator) -> list[Case]:
    return [_case(rng, (70,), 33, 65), _case(rng, (2, 3, 40), 9, 130)]


def zero_bias(rng: np.random.Generator) -> list[Case]:
    """A layer as it is initialised."""
    return [case(*c.args[:2], np.zeros(4)) for c in (_case(rng, (5,), 3, 4), _case(rng, (2, 3), 2, 4))]


def frozen_input(rng: np.random.Generator) -> list[Case]:
    """x has no gradient, as in a first layer; or the weights have none, as in a frozen one."""
    return [_case(rng, (5,), 3, 4).constant(0), _case(rng, (5,), 3, 4).constant(1, 2)]


def _case(rng: np.random.Generator, batch: tuple[int, ...], i: int, o: int) -> Case:
    return case(rng.standard_normal((*batch, i)), rng.standard_normal((o, i)), rng.standard_normal(o))


NEXT = "all rows of all sequences add to the same W: flatten x and dy first"
SQUARE = "a square W hides a wrong transpose; write dL/dW_oi = Σ_t g_to x_ti"
CHECKS = (
    Check("forward", 1, matrices, "y is [rows, out], W is [out, in]: y = x @ W.T + b"),
    Check("forward with any leading axes", 1, leading_axes, "flatten all axes but the last, or let @ do it"),
    Check("NaN shows", 1, not_a_number, "NaN in, NaN out, in its own row and no other: hide nothing"),
    Check("refuses shapes that do not fit", 1, refused, "ValueError; a reshape can hide that x is too long for W"),
    Check("the bias may be None", 1, without_bias, "add the bias only if there is one", gradient=True),
    Check("gradients of x, W and b", 4, matrices, "each gradient is shaped like its input", gradient=True),
    Check("gradients where every shape fits", 2, square, SQUARE, gradient=True),
    Check("gradients with leading axes", 2, leading_axes, NEXT, gradient=True),
    Check("gradients of every shape", 1, every_axis, "a gradient has the shape of its input", gradient=True),
    Check("zero gradients without rows", 1, no_rows, "an empty sum is 0, not NaN", gradient=True),
    Check("a bias of zeros has a gradient", 1, zero_bias, "only None means no bias", gradient=True),
    Check("constants need no gradient", 1, frozen_input, "the gradient of x is not used here", gradient=True),
    Check("float32 without a bias", 1, float32(without_bias), "float64 zeros make float64 of it", gradient=True),
    *standard_checks(leading_axes, gradient=NEXT),
    Check("larger arrays", 1, larger, "the size changes nothing", gradient=True, finite_differences=False),
)

MISTAKES = edits("""
weight not transposed: y = x W. The weights are stored [out, in], so x is multiplied with Wᵀ; only a square W hides it.
- _product(_rows(x), weight.T)
+ _product(_rows(x), weight)
forgets the bias: y = x Wᵀ: b is missing.
- y = y + bias
+ pass
assumes a bias: Adds the bias without looking whether it is None.
- if bias is not None:
-             y = y + bias
+ y = y + bias
input gradient with the transpose: dx = g Wᵀ. Forward multiplied with Wᵀ, so backward multiplies with (Wᵀ)ᵀ = W.
- _product(g, weight)
+ _product(g, weight.T)
weight gradient transposed: dW = xᵀ dy is [in, out]. W is [out, in], and so is its gradient: dyᵀ x.
- _product(g.T, _rows(x))
+ _product(_rows(x).T, g)
averages over rows: Divides dW and db by the number of rows. Rows add up; only the loss takes a mean.
- _product(g.T, _rows(x))
+ _product(g.T, _rows(x)) / max(len(g), 1)
- sum_of(g, 0)
+ sum_of(g, 0) / max(len(g), 1)
last sequence only: Each sequence overwrites dW of the one before. They must add up.
- _product(g.T, _rows(x))
+ _product(g[-n:].T, _rows(x)[-n:])
- x, weight = self.saved
+ x, weight = self.saved; n = (1, *x.shape)[-2]
bias gradient of one row: db = g of the first row. The bias was added to every row: its gradient is the sum of all rows.
- sum_of(g, 0)
+ g[0]
sums the wrong axis: db sums over the outputs instead of the rows. Shapes hide it where both are equally many.
- sum_of(g, 0)
+ sum_of(g, 1)
ignores upstream: Backward works with ones instead of the gradient from above.
- _rows(grad)
+ _rows(np.ones_like(grad))
zero bias is no bias: Looks whether the bias is zero instead of None. A bias of zeros needs a gradient too.
- dbias = sum_of(g, 0) if self.needs_grad(2) else None
+ dbias = sum_of(g, 0) if self.needs_grad(2) and self.has_bias else None
- if bias is not None:
+ self.has_bias = bias is not None and bool(bias.any())
+         if self.has_bias:
looks at another input: Leaves out dW where x needs no gradient. Each input has its own needs_grad.
- _product(g.T, _rows(x)) if self.needs_grad(1)
+ _product(g.T, _rows(x)) if self.needs_grad(0)
saves on the class: The next layer overwrites W before this one runs backward. Use self.save.
- self.save(x, weight)
+ type(self).kept = x, weight
- x, weight = self.saved
+ x, weight = self.kept
weight gradient from y: dW = dyᵀ y: W was multiplied with x, so x belongs here.
- return y.reshape(*x.shape[:-1], weight.shape[0])
+ self.y = y; return y.reshape(*x.shape[:-1], weight.shape[0])
- _product(g.T, _rows(x))
+ _product(g.T, np.resize(self.y, _rows(x).shape))
looks at the weights for x: Leaves out dx where W needs no gradient: a frozen layer must still pass it on.
- _product(g, weight).reshape(x.shape) if self.needs_grad(0)
+ _product(g, weight).reshape(x.shape) if self.needs_grad(1)
cuts x into pieces: reshape(-1, i) makes two rows of one that is twice too long. The last axis of x must be i.
- y = _product(_rows(x), weight.T)
+ y = _product(x.reshape(-1, weight.shape[1]), weight.T) if weight.shape[1] else _product(_rows(x), weight.T)
- return y.reshape(*x.shape[:-1], weight.shape[0])
+ return y.reshape(*x.shape[:-1], weight.shape[0] * x.shape[-1] // max(weight.shape[1], 1))
hides what is not finite: nan_to_num turns NaN into 0: the error then shows somewhere else, or never.
- y = _product(_rows(x), weight.T)
+ y = _product(np.nan_to_num(_rows(x)), weight.T)
asserts the shapes: The docstring names ValueError: whoever catches it does not see an AssertionError.
- if x.ndim == 0 or
+ assert x.ndim and weight.ndim == 2 and x.shape[-1] == weight.shape[1]
+         if x.ndim == 0 or
exchanges the leading axes: Flatten x and dy in the same order.
- g = _rows(grad)
+ g = _rows(grad.swapaxes(0, 1) if grad.ndim > 3 else grad)
zeros for no bias: np.zeros(o) is float64, and so is what it is added to.
- if bias is not None:
+ bias = np.zeros(len(weight)) if bias is None else bias
+         if True:
""")
