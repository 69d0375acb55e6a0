"""Exercise 03: the matrix product of every linear layer, forward and backward."""

from typing import Any

import numpy as np

from moe_numpy.ops.matmul import Affine

from ..exercise import Case, Check, Exercise, case, float32, strided

EXERCISE = Exercise(
    number=3,
    name="affine",
    title="Matrix product and bias",
    teaches="Why the gradient of a matrix product is two more matrix products, and which factor is transposed.",
    difficulty=2,
    minutes=20,
    needs=(2,),
    target="moe_numpy.ops.matmul:Affine",
    hints=(
        "Write one entry: y_to = Σ_i x_ti W_oi + b_o. Which outputs does x_ti reach? Which does W_oi? Which b_o?",
        "dx_ti = Σ_o g_to W_oi, dW_oi = Σ_t g_to x_ti, db_o = Σ_t g_to. The index summed over tells the product.",
        "Flatten x and grad to [rows, in] and [rows, out]. Then dx = g @ W (reshaped to x.shape), dW = g.T @ x, "
        "db = g.sum(axis=0).",
    ),
)


def specification(x: Any, weight: Any, bias: Any) -> Any:
    """One output at a time: Σ_j x_j W_oj + b_o."""
    y = np.zeros((*x.shape[:-1], len(weight)), x.dtype)
    for index in np.ndindex(x.shape[:-1]):
        for o in range(len(weight)):
            y[(*index, o)] = 0.0 if bias is None else bias[o]
            for j in range(x.shape[-1]):
                y[(*index, o)] += x[(*index, j)] * weight[o, j]
    return y


def matrices(rng: np.random.Generator) -> list[Case]:
    """T rows of x, from wide to narrow."""
    return [_case(rng, (t,), i, o) for t, i, o in [(5, 3, 4), (2, 4, 3), (1, 3, 2), (4, 1, 3), (3, 2, 1), (1, 1, 1)]]


def square(rng: np.random.Generator) -> list[Case]:
    """Where every shape fits, transposed or not."""
    return [_case(rng, (4,), 4, 4), _case(rng, (3, 3), 3, 3)]


def leading_axes(rng: np.random.Generator) -> list[Case]:
    """A batch of sequences, and a single vector."""
    return [_case(rng, (2, 3), 4, 5), _case(rng, (2, 1, 3), 2, 3), _case(rng, (), 3, 2)]


def without_bias(rng: np.random.Generator) -> list[Case]:
    """The bias is None."""
    drawn = [_case(rng, (5,), 3, 4), _case(rng, (2, 3), 4, 2)]
    return [case(*c.args[:2], None) for c in drawn]


def no_rows(rng: np.random.Generator) -> list[Case]:
    """An expert that no token came to: its weights get a gradient of zeros."""
    return [_case(rng, (0,), 3, 4), _case(rng, (2, 0), 3, 4)]


def frozen_input(rng: np.random.Generator) -> list[Case]:
    """x has no gradient, as in a first layer."""
    return [_case(rng, (5,), 3, 4).constant(0)]


def _case(rng: np.random.Generator, batch: tuple[int, ...], i: int, o: int) -> Case:
    return case(rng.standard_normal((*batch, i)), rng.standard_normal((o, i)), rng.standard_normal(o))


# Wrong solutions


def _flat(x: Any) -> Any:
    return x.reshape(-1, x.shape[-1]) if x.size else x.reshape(0, x.shape[-1])


class WeightNotTransposed(Affine):
    """y = x W. The weights are stored [out, in], so the product needs Wᵀ; only a square W hides it."""

    def forward(self, x: Any, weight: Any, bias: Any) -> Any:
        """With W as it is."""
        self.save(x, weight)
        y = x @ weight
        return y if bias is None else y + bias


class ForgetsTheBias(Affine):
    """y = x Wᵀ: b is missing."""

    def forward(self, x: Any, weight: Any, bias: Any) -> Any:
        """Multiplies only."""
        return super().forward(x, weight, None)


class AssumesABias(Affine):
    """Adds and differentiates a bias that may be None."""

    def forward(self, x: Any, weight: Any, bias: Any) -> Any:
        """Fails without one."""
        return super().forward(x, weight, np.zeros(len(weight), x.dtype)) + bias


class InputGradientWithTheTranspose(Affine):
    """dx = g Wᵀ. Forward multiplied with Wᵀ, so backward multiplies with (Wᵀ)ᵀ = W."""

    def backward(self, grad: Any) -> Any:
        """Twice the same way."""
        x, weight = self.saved
        _, dweight, dbias = super().backward(grad)
        return (_flat(grad) @ weight.T).reshape(x.shape), dweight, dbias


class WeightGradientTransposed(Affine):
    """dW = xᵀ g is [in, out]. W is [out, in], and so is its gradient: gᵀ x."""

    def backward(self, grad: Any) -> Any:
        """The other way round."""
        dx, dweight, dbias = super().backward(grad)
        return dx, dweight.T, dbias


class AveragesOverRows(Affine):
    """Divides dW and db by the number of rows. Rows add up; a mean belongs to the loss, which has taken it."""

    def backward(self, grad: Any) -> Any:
        """A mean."""
        dx, dweight, dbias = super().backward(grad)
        rows = max(_flat(grad).shape[0], 1)
        return dx, dweight / rows, None if dbias is None else dbias / rows


class LastSequenceOnly(Affine):
    """With a batch axis in front, each sequence overwrites dW of the one before. They must add up."""

    def backward(self, grad: Any) -> Any:
        """Overwrites."""
        x, _ = self.saved
        dx, dweight, dbias = super().backward(grad)
        if x.ndim > 2 and x.size:
            g, last = grad.reshape(-1, *grad.shape[-2:]), x.reshape(-1, *x.shape[-2:])[-1]
            dweight = g[-1].T @ last
        return dx, dweight, dbias


class BiasGradientOfOneRow(Affine):
    """db = g of the first row. The bias was added to every row, so its gradient is the sum of all."""

    def backward(self, grad: Any) -> Any:
        """Without the sum."""
        dx, dweight, dbias = super().backward(grad)
        return dx, dweight, None if dbias is None or not grad.size else _flat(grad)[0].copy()


class SumsTheWrongAxis(Affine):
    """db sums over the outputs instead of the rows, which shows where both are equally many."""

    def backward(self, grad: Any) -> Any:
        """Along the last axis."""
        dx, dweight, dbias = super().backward(grad)
        return dx, dweight, None if dbias is None else _flat(grad).sum(axis=1)


class IgnoresUpstream(Affine):
    """Backward works with ones instead of the gradient from above."""

    def backward(self, grad: Any) -> Any:
        """As if L were Σ y."""
        return super().backward(np.ones_like(grad))


CHECKS = (
    Check("forward", 1, matrices, "y is [rows, out], W is [out, in]: y = x @ W.T + b"),
    Check("forward with any leading axes", 1, leading_axes, "flatten all axes but the last, or let @ do it"),
    Check("the bias may be None", 1, without_bias, "add the bias only if there is one", gradient=True),
    Check(
        "gradients of x, W and b",
        4,
        matrices,
        "shapes first: each gradient is shaped like its input",
        gradient=True,
    ),
    Check(
        "gradients where every shape fits",
        2,
        square,
        "a square W hides a wrong transpose; write dL/dW_oi = Σ_t g_to x_ti",
        gradient=True,
    ),
    Check(
        "gradients with leading axes",
        2,
        leading_axes,
        "all rows of all sequences add to the same W: flatten x and g first",
        gradient=True,
    ),
    Check("zero gradients without rows", 1, no_rows, "the sum of nothing is 0, not NaN", gradient=True),
    Check("constants need no gradient", 1, frozen_input, "the gradient of x is not wanted here", gradient=True),
    Check("gradients in float32", 1, float32(matrices), "everything stays float32", gradient=True),
    Check("gradients of arrays with gaps", 1, strided(leading_axes), "do not rely on strides", gradient=True),
)

MISTAKES = (
    WeightNotTransposed,
    ForgetsTheBias,
    AssumesABias,
    InputGradientWithTheTranspose,
    WeightGradientTransposed,
    AveragesOverRows,
    LastSequenceOnly,
    BiasGradientOfOneRow,
    SumsTheWrongAxis,
    IgnoresUpstream,
)
