"""Activations, entry by entry, and softmax along an axis."""

import math
from typing import Any, SupportsIndex

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Function, decisions
from ..autodiff.arrays import one_axis
from ..kernels import kernel
from ..typing import Array, Float


class ReLU(Function):
    """y = max(x, 0). The derivative at 0 is taken as 0."""

    def forward(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        positive = x > 0
        self.save(positive)
        decisions.record(
            "sign of ReLU's input",
            positive.reshape(-1),
            lambda i: f"entry {i} of x with shape {x.shape} is {float(x.reshape(-1)[i]):.1e}",
        )
        return array_namespace(x).maximum(x, 0)

    def backward(self, grad: Float[Array, "*shape"]) -> Any:
        """dx = dy [x > 0]."""
        (positive,) = self.saved
        return array_namespace(grad).where(positive, grad, 0).astype(grad.dtype, copy=False)  # CuPy widens bfloat16


def sigmoid(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1 / (1 + e⁻ˣ). Where e⁻ˣ overflows, the quotient is 0: the correct limit."""
    with np.errstate(over="ignore"):
        return 1 / (1 + array_namespace(x).exp(-x))


class Sigmoid(Function):
    """σ(x) = 1 / (1 + e⁻ˣ)."""

    def forward(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        y = sigmoid(x)
        self.save(y)
        return y

    def backward(self, grad: Float[Array, "*shape"]) -> Any:
        """dx = dy σ (1 - σ)."""
        (y,) = self.saved
        return grad * y * (1 - y)


class Tanh(Function):
    """y = tanh x."""

    def forward(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        y = array_namespace(x).tanh(x)
        self.save(y)
        return y

    def backward(self, grad: Float[Array, "*shape"]) -> Any:
        """dx = dy (1 - y²)."""
        (y,) = self.saved
        return grad * (1 - y * y)


class Softplus(Function):
    """y = ln(1 + eˣ), computed as max(x, 0) + ln(1 + e^-|x|), which cannot overflow."""

    def forward(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        xp = array_namespace(x)
        self.save(x)
        return xp.maximum(x, 0) + xp.log1p(xp.exp(-abs(x)))

    def backward(self, grad: Float[Array, "*shape"]) -> Any:
        """dx = dy σ(x)."""
        (x,) = self.saved
        return grad * sigmoid(x)


@kernel
def normal_cdf(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Φ(x) = (1 + erf(x/√2)) / 2, the distribution function of N(0, 1)."""
    from scipy.special import ndtr  # here: it would double the time of `import moe_numpy`

    return ndtr(x)


def _gelu_cdf(x: Any, approximate: bool) -> Any:
    if approximate:
        return 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return normal_cdf.definition(x)


@kernel
def gelu(x: Float[Array, "*n"], approximate: bool) -> Float[Array, "*n"]:
    """x Φ(x), with Φ(x) = (1 + erf(x/√2)) / 2, or (1 + tanh u) / 2 with u = √(2/π) (x + 0.044715 x³)."""
    return x * _gelu_cdf(x, approximate)


@kernel
def gelu_gradient(grad: Float[Array, "*n"], x: Float[Array, "*n"], approximate: bool) -> Float[Array, "*n"]:
    """dx = dy (Φ + x Φ'); Φ' is the normal density, or 2 Φ (1 - Φ) u' for tanh."""
    cdf = _gelu_cdf(x, approximate)
    if approximate:
        density = 2 * cdf * (1 - cdf) * (math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x))
    else:
        density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return grad * (cdf + x * density)


class GELU(Function):
    """y = x Φ(x), Φ the distribution function of N(0, 1) (Hendrycks and Gimpel 2016).

    Args:
        approximate: "none" for Φ(x) = (1 + erf(x/√2)) / 2; "tanh" for the paper's approximation
            Φ(x) ≈ (1 + tanh u) / 2 with u = √(2/π) (x + 0.044715 x³), as in GPT-2.
    """

    def forward(self, x: Float[Array, "*shape"], *, approximate: str = "none") -> Float[Array, "*shape"]:
        if approximate not in ("none", "tanh"):
            raise ValueError(f'approximate must be "none" or "tanh", got {approximate!r}')
        self.approximate = approximate == "tanh"
        self.save(x)
        return gelu(x, self.approximate)

    def backward(self, grad: Float[Array, "*shape"]) -> Any:
        """dx = dy (Φ + x Φ'); Φ' is the normal density, or 2 Φ (1 - Φ) u' for tanh."""
        (x,) = self.saved
        return gelu_gradient(grad, x, self.approximate)


@kernel
def silu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """x σ(x) = x / (1 + e⁻ˣ)."""
    return x * sigmoid(x)


@kernel
def silu_gradient(grad: Float[Array, "*n"], x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """dx = dy s (1 + x (1 - s)) with s = σ(x)."""
    s = sigmoid(x)
    return grad * s * (1 + x * (1 - s))


class SiLU(Function):
    """y = x σ(x), also called swish (Elfwing, Uchibe and Doya 2017)."""

    def forward(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        self.save(x)
        return silu(x)

    def backward(self, grad: Float[Array, "*shape"]) -> Any:
        """dx = dy σ (1 + x (1 - σ))."""
        (x,) = self.saved
        return silu_gradient(grad, x)


@kernel
def swiglu(gate: Float[Array, "*n"], up: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """silu(gate) up with silu(x) = x σ(x)."""
    return gate * sigmoid(gate) * up


@kernel
def swiglu_gradient(
    grad: Float[Array, "*batch f"], gate: Float[Array, "*batch f"], up: Float[Array, "*batch f"]
) -> Float[Array, "*batch two_f"]:
    """dL/dgate and dL/dup side by side: the gradient of a matrix multiplication that makes gate and up at once.

    With s = σ(gate): dgate = dy up s (1 + gate (1 - s)) and dup = dy gate s.
    """
    s = sigmoid(gate)
    d_gate = grad * up * s * (1 + gate * (1 - s))
    d_up = grad * gate * s
    return np.concatenate([d_gate, d_up], axis=-1)


class SwiGLU(Function):
    """y = silu(gate) up with silu(x) = x σ(x) (Shazeer 2020, "GLU Variants Improve Transformer", eq. 6)."""

    def forward(self, gate: Float[Array, "*shape"], up: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Multiply ``up``, entry by entry, by silu(gate). ValueError for two shapes."""
        if gate.shape != up.shape:
            raise ValueError(f"gate and up must have one shape, got {gate.shape} and {up.shape}")
        self.save(gate, up)
        return swiglu(gate, up)

    def backward(self, grad: Float[Array, "*shape"]) -> Any:
        """dgate = dy up σ (1 + gate (1 - σ)), dup = dy gate σ."""
        gate, up = self.saved
        if gate.ndim == 0:
            return tuple(swiglu_gradient(*[x.reshape(1) for x in (grad, gate, up)]))
        d, f = swiglu_gradient(grad, gate, up), gate.shape[-1]
        return d[..., :f], d[..., f:]


@kernel
def softmax(x: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """y = eˣ / Σ eˣ over the last axis. The maximum is subtracted first, so that nothing overflows."""
    e = np.exp(x - x.max(axis=-1, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=-1, keepdims=True)


@kernel
def softmax_gradient(grad: Float[Array, "*batch n"], y: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """dx = y (dy - Σ dy y)."""
    return y * (grad - (grad * y).sum(axis=-1, keepdims=True))


class Softmax(Function):
    """y = eˣ / Σ eˣ along an axis. -inf gives 0; a row of only -inf has no softmax and gives NaN.

    Args:
        axis: the axis along which y sums to 1.
    """

    def forward(self, x: Float[Array, "*shape"], *, axis: SupportsIndex = -1) -> Float[Array, "*shape"]:
        """Exponentiate and normalise."""
        xp, axis = array_namespace(x), one_axis(axis)
        y = xp.moveaxis(softmax(xp.moveaxis(x, axis, -1)), -1, axis)
        self.axis = axis
        self.save(y)
        return y

    def backward(self, grad: Float[Array, "*shape"]) -> Any:
        """dx = y (dy - Σ dy y)."""
        (y,) = self.saved
        xp, axis = array_namespace(y), self.axis
        dx = softmax_gradient(xp.moveaxis(grad, axis, -1), xp.moveaxis(y, axis, -1))
        return xp.moveaxis(dx, -1, axis)


@kernel
def log_softmax(x: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """y = x - ln Σ eˣ over the last axis."""
    y = x - x.max(axis=-1, keepdims=True, initial=-np.inf)
    with np.errstate(divide="ignore"):  # rows without entries
        return y - np.log(np.exp(y).sum(axis=-1, keepdims=True))


@kernel
def log_softmax_gradient(grad: Float[Array, "*batch n"], y: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """dx = dy - eʸ Σ dy."""
    return grad - np.exp(y) * grad.sum(axis=-1, keepdims=True)


class LogSoftmax(Function):
    """y = x - ln Σ eˣ along an axis: ln softmax, exact where softmax rounds to 0. A row of only -inf gives NaN.

    Args:
        axis: the axis along which eʸ sums to 1.
    """

    def forward(self, x: Float[Array, "*shape"], *, axis: SupportsIndex = -1) -> Float[Array, "*shape"]:
        xp, axis = array_namespace(x), one_axis(axis)
        y = xp.moveaxis(log_softmax(xp.moveaxis(x, axis, -1)), -1, axis)
        self.axis = axis
        self.save(y)
        return y

    def backward(self, grad: Float[Array, "*shape"]) -> Any:
        """dx = dy - eʸ Σ dy."""
        (y,) = self.saved
        xp, axis = array_namespace(y), self.axis
        dx = log_softmax_gradient(xp.moveaxis(grad, axis, -1), xp.moveaxis(y, axis, -1))
        return xp.moveaxis(dx, -1, axis)
