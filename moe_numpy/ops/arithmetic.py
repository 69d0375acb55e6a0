"""Arithmetic, entry by entry. Inputs broadcast; Python numbers keep the other input's dtype.

No ``backward`` here sums over broadcast axes: the engine does, for every op (``graph.undo_broadcasting``).
"""

from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Function, Tensor, decisions
from ..kernels import add
from ..typing import Array, Bool, Float, Shaped

Operand: TypeAlias = Shaped[Array, "..."] | int | float


class Add(Function):
    """y = a + b."""

    def forward(self, a: Operand, b: Operand) -> Shaped[Array, "..."]:
        return add(a, b)

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """da = dy, db = dy."""
        return grad, grad


class Subtract(Function):
    """y = a - b."""

    def forward(self, a: Operand, b: Operand) -> Shaped[Array, "..."]:
        return a - b

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """da = dy, db = -dy."""
        return grad, -grad if self.needs_grad(1) else None


class Multiply(Function):
    """y = a b, entry by entry. The engine sums ``backward``'s results over broadcast axes."""

    def forward(self, a: Operand, b: Operand) -> Shaped[Array, "..."]:
        """Multiply entries."""
        self.save(a, b)
        return a * b

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """da = dy b, db = dy a."""
        a, b = self.saved
        return grad * b if self.needs_grad(0) else None, grad * a if self.needs_grad(1) else None


class Divide(Function):
    """y = a / b."""

    def forward(self, a: Operand, b: Operand) -> Shaped[Array, "..."]:
        y = a / b
        self.save(b, y)
        return y

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """da = dy / b, db = -dy a / b² = -da y."""
        b, y = self.saved
        da = grad / b
        return da, -da * y if self.needs_grad(1) else None


class Negate(Function):
    """y = -x."""

    def forward(self, x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        return -x

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """dx = -dy."""
        return -grad


class Abs(Function):
    """y = |x|. The derivative at 0 is taken as 0."""

    def forward(self, x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """Drop the sign."""
        self.save(x)
        decisions.record("sign of the input of abs", (x > 0).reshape(-1), lambda i: f"entry {i} is close to 0")
        return abs(x)

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """dx = dy sign(x)."""
        (x,) = self.saved
        where = array_namespace(x).where
        return where(x > 0, grad, where(x < 0, -grad, 0)).astype(grad.dtype, copy=False)


class Power(Function):
    """y = xᵖ with a constant p.

    Args:
        exponent: p, a Python number. TypeError otherwise; for a Tensor p and positive x write ``(p * x.log()).exp()``.
    """

    def forward(self, x: Shaped[Array, "..."], *, exponent: float) -> Shaped[Array, "..."]:
        if type(exponent) not in (int, float):
            raise TypeError(f"exponent must be an int or a float, got {exponent!r}")
        self.exponent = exponent
        self.save(x)
        return _narrow_as(x, x**exponent)

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """dx = dy p xᵖ⁻¹, and 0 for p = 0, where xᵖ⁻¹ may be infinite."""
        (x,) = self.saved
        if self.exponent == 0:
            return array_namespace(x).zeros_like(x)
        return _narrow_as(x, grad * self.exponent * x ** (self.exponent - 1))


def _narrow_as(x: Shaped[Array, "..."], y: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """y, rounded to bfloat16 if x is: a Python number beside bfloat16 makes NumPy widen."""
    return y.astype(x.dtype, copy=False) if x.dtype.kind == "V" else y


class Exp(Function):
    """y = eˣ."""

    def forward(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        y = array_namespace(x).exp(x)
        self.save(y)
        return y

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """dx = dy y."""
        (y,) = self.saved
        return grad * y


class Log(Function):
    """y = ln x."""

    def forward(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        self.save(x)
        return array_namespace(x).log(x)

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """dx = dy / x."""
        (x,) = self.saved
        return grad / x


class Sqrt(Function):
    """y = √x. The gradient at 0 is infinite."""

    def forward(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        y = array_namespace(x).sqrt(x)
        self.save(y)
        return y

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """dx = dy / (2 y)."""
        (y,) = self.saved
        return grad / (2 * y)


class Cast(Function):
    """The same numbers in another type.

    Args:
        dtype: the type of the result. An integer type ends the gradient.
    """

    def forward(self, x: Shaped[Array, "..."], *, dtype: Any) -> Shaped[Array, "..."]:
        """Round to ``dtype``; x itself if it has that type already."""
        self.dtype = x.dtype
        return x.astype(dtype, copy=False)

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """dx = dy, in the type of x."""
        return grad.astype(self.dtype, copy=False)


def at_least_float32(x: Tensor) -> Tensor:
    """x itself, or a float32 copy of numbers narrower than that."""
    return Cast.apply(x, dtype=np.float32) if x.dtype.itemsize < 4 else x


class Clip(Function):
    """y = min(max(x, -limit), limit). The gradient is zero where an entry was cut."""

    def forward(self, x: Float[Array, "..."], *, limit: float) -> Float[Array, "..."]:
        """ValueError for a limit that is not positive."""
        if not limit > 0:
            raise ValueError(f"Clip: the limit must be positive, got {limit}")
        xp = array_namespace(x)
        inside = xp.abs(x) <= limit
        decisions.record("cut entries", inside.reshape(-1), lambda i: f"entry {i}: {float(x.reshape(-1)[i]):.6g}")
        self.save(inside)
        return _narrow_as(x, xp.minimum(xp.maximum(x, -limit), limit))

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """dx = dy where |x| <= limit, else 0."""
        (inside,) = self.saved
        return grad * inside.astype(grad.dtype)


class Where(Function):
    """y = a where the condition holds, else b. The condition is a constant."""

    def forward(self, condition: Bool[Array, "..."], a: Operand, b: Operand) -> Shaped[Array, "..."]:
        self.save(condition)
        return array_namespace(condition).where(condition, a, b)

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """da = dy where chosen, db = dy elsewhere."""
        (condition,) = self.saved
        where = array_namespace(grad).where
        return None, where(condition, grad, 0), where(condition, 0, grad)
