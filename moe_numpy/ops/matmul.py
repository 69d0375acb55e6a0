"""Matrix multiplication, and the affine map that linear layers are made of."""

import math
from typing import Any

from ..autodiff import Function
from ..autodiff.arrays import sum_of
from ..kernels import kernel
from ..typing import Array, Float


@kernel
def product(a: Float[Array, "m i"], b: Float[Array, "i n"]) -> Float[Array, "m n"]:
    """a b for two matrices. Either may be a transposed view."""
    return a @ b


@kernel(wide=(0,))
def wide_product(a: Float[Array, "m i"], b: Float[Array, "i n"], dtype: Any = None) -> Float[Array, "m n"]:
    """a b for two matrices, multiplied and added in float32 or wider; the result as ``dtype``, or as it was added."""
    y = a @ b
    return y if dtype is None else y.astype(dtype, copy=False)


@kernel
def matmul(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """a b by the rules of ``numpy.matmul``: a vector, or stacks of matrices that broadcast."""
    return a @ b


class MatMul(Function):
    """y = a b, with the shapes of ``numpy.matmul``: the last two axes are matrices, the others broadcast.

    A vector counts as one row on the left and as one column on the right; that axis is absent from y.

    Raises:
        ValueError: the inner lengths differ.
    """

    def forward(self, a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
        if not (getattr(a, "ndim", 0) and getattr(b, "ndim", 0)):
            raise ValueError(f"matmul: both sides need at least one axis, got {a!r:.60} and {b!r:.60}")
        self.save(a, b)
        if a.ndim > 2 and b.ndim == 2:
            return _product(_rows(a), b).reshape(*a.shape[:-1], b.shape[1])
        return _product(a, b) if a.ndim == b.ndim == 2 else matmul(a, b)

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """da = dy bᵀ, db = aᵀ dy, summed over the batch in one matrix multiplication where b has no batch axes."""
        a, b = self.saved
        left = a[None, :] if a.ndim == 1 else a
        right = b[:, None] if b.ndim == 1 else b
        if b.ndim == 1:
            grad = grad[..., None]
        if a.ndim == 1:
            grad = grad[..., None, :]
        da = db = None
        if self.needs_grad(0):
            da = matmul(grad, right.swapaxes(-1, -2))
            da = da[..., 0, :] if a.ndim == 1 else da
        if self.needs_grad(1):
            db = _product(_rows(left).T, _rows(grad)) if right.ndim == 2 else matmul(left.swapaxes(-1, -2), grad)
            db = db[..., 0] if b.ndim == 1 else db
        return da, db


class Affine(Function):
    """y = x Wᵀ + b for every vector x along the last axis.

    The leading axes of x are flattened, so that each of the three matrix multiplications is one call of BLAS.
    """

    def forward(
        self,
        x: Float[Array, "*batch i"],
        weight: Float[Array, "o i"],
        bias: Float[Array, "o"] | None,
    ) -> Float[Array, "*batch o"]:
        """Multiply and add; ``bias`` may be None. ValueError for shapes that do not fit."""
        if x.ndim == 0 or weight.ndim != 2:
            raise ValueError(f"x must be vectors and the weight a matrix, got shapes {x.shape} and {weight.shape}")
        self.save(x, weight)
        y = _product(_rows(x), weight.T)
        if bias is not None:
            y = y + bias
        return y.reshape(*x.shape[:-1], weight.shape[0])

    def backward(self, grad: Float[Array, "*batch o"]) -> Any:
        """dx = dy W, dW = dyᵀ x, db = Σ dy."""
        x, weight = self.saved
        g = _rows(grad)
        dx = _product(g, weight).reshape(x.shape) if self.needs_grad(0) else None
        dweight = _product(g.T, _rows(x)) if self.needs_grad(1) else None
        dbias = sum_of(g, 0) if self.needs_grad(2) else None
        return dx, dweight, dbias


class WideAffine(Affine):
    """:class:`Affine` in float32 or wider for x and weights that are stored in fewer bits; so is its gradient dy."""

    def forward(
        self, x: Float[Array, "*batch i"], weight: Float[Array, "o i"], bias: Float[Array, "o"] | None
    ) -> Float[Array, "*batch o"]:
        self.save(x, weight)
        y = wide_product(_rows(x), weight.T)
        if bias is not None:
            y = y + bias.astype(y.dtype)
        return y.reshape(*x.shape[:-1], weight.shape[0])

    def backward(self, grad: Float[Array, "*batch o"]) -> Any:
        """dx = dy W, dW = dyᵀ x, db = Σ dy, each rounded once to the type of what it is the gradient of."""
        x, weight = self.saved
        g = _rows(grad)
        dx = wide_product(g, weight, x.dtype).reshape(x.shape) if self.needs_grad(0) else None
        dweight = wide_product(g.T, _rows(x), weight.dtype) if self.needs_grad(1) else None
        return dx, dweight, sum_of(g, 0) if self.needs_grad(2) else None


def _product(a: Float[Array, "m i"], b: Float[Array, "j n"]) -> Float[Array, "m n"]:
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"matmul: the inner lengths must agree, got shapes {a.shape} and {b.shape}")
    return product(a, b)


def _rows(x: Float[Array, "..."]) -> Float[Array, "rows n"]:
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
